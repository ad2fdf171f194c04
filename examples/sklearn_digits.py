"""A network of scikit-learn, trained by fusestep: settings from a grid, saved, and more epochs.

pip install fusestep scikit-learn
python examples/sklearn_digits.py
"""

import argparse
import pickle
import warnings

from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, train_test_split

import fusestep as fs
from fusestep import schedules
from fusestep.sklearn import MLPClassifier

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--epochs", type=int, default=30, help="of each fit (%(default)s)")
epochs = parser.parse_args().epochs
warnings.simplefilter("ignore", ConvergenceWarning)  # a schedule ends with the last epoch

pixels, digits = load_digits(return_X_y=True)
x, x_test, y, y_test = train_test_split(pixels / 16, digits, random_state=0)

model = MLPClassifier(
    hidden_layer_sizes=(64,),
    max_iter=epochs,
    random_state=0,
    optimizer=fs.AdamW,  # any optimizer of fusestep, and optimizer__... any setting of it
    optimizer__groups=({"match": "intercepts/*", "weight_decay": 0.0},),
)
grid = {
    "optimizer__lr": [
        0.01,
        schedules.cosine(start=0.01, length=epochs, by="epoch"),
        schedules.one_cycle(peak=0.02, total=epochs, by="epoch"),
    ],
    "optimizer__weight_decay": [0.01, 0.1],
}
search = GridSearchCV(model, grid, cv=3, n_jobs=2).fit(x, y)
for name, value in search.best_params_.items():
    print(name, value)
print(f"accuracy {search.score(x_test, y_test):.3f}")

# a pickle has the optimizer's state: both go on with the same bits
copy = pickle.loads(pickle.dumps(search.best_estimator_))
losses = [network.partial_fit(x, y).loss_ for network in (search.best_estimator_, copy)]
print(f"losses after one more epoch: {losses[0]} and {losses[1]}")

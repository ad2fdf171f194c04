"""Learns vectors of words from Python's help pages: skip-gram with negative sampling.

python examples/word2vec.py [--epochs 8]

A batch reads and moves the rows of its own words only, yet the tables become those of dense AdamW,
bit for bit: a row that no batch touches moves and decays by what it missed when it is next read.
Source: Mikolov et al., "Distributed representations of words and phrases", 2013.
"""

import argparse
import re
from pydoc_data import topics

import numpy as np

import fusestep as fs
from fusestep import schedules

DIMENSIONS, WINDOW, NEGATIVES, BATCH, SEEN_AT_LEAST, FREQUENT = 64, 4, 8, 1024, 10, 1e-3

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--epochs", type=int, default=8, help="over the text (%(default)s)")
epochs = parser.parse_args().epochs
random = np.random.default_rng(0)

text = " ".join(topics.topics.values()).lower()
tokens = np.array(re.findall(r"[a-z]+(?:_[a-z]+)*", text))
words, ids, counts = np.unique(tokens, return_inverse=True, return_counts=True)
kept = counts >= SEEN_AT_LEAST
ids = np.where(kept, np.cumsum(kept) - 1, -1)[ids]
words, counts = words[kept], counts[kept]
chance = np.sqrt(FREQUENT * counts.sum() / counts)  # most of "the" and the like are left out
ids = ids[(ids >= 0) & (random.random(len(ids)) < chance[ids])]
near = [np.stack([ids[:-k], ids[k:]]) for k in range(1, WINDOW + 1)]
first, second = np.concatenate([*near, *(pair[::-1] for pair in near)], axis=1)
noise = np.cumsum(counts**0.75) / np.sum(counts**0.75)

shape, scale = (len(words), DIMENSIONS), 0.5 / DIMENSIONS
params = {
    "words": random.uniform(-scale, scale, shape).astype(np.float32),
    "contexts": np.zeros(shape, np.float32),
}


def loss_and_grads(word, others):
    """The pairs (word, others[:, 0]) are true; those with the other columns are not."""
    w, c = params["words"][word], params["contexts"][others]
    sign = np.where(np.arange(others.shape[1]) == 0, -1, 1).astype(w.dtype)
    logits = sign * (c @ w[:, :, None])[:, :, 0]
    delta = sign / (1 + np.exp(-logits)) / len(word)
    of_words = (delta[:, None, :] @ c)[:, 0]
    of_contexts = (delta[:, :, None] * w[:, None, :]).reshape(-1, DIMENSIONS)
    return np.logaddexp(0, logits).sum(axis=1).mean(), {
        "words": fs.Rows(word, of_words, shape),  # a row that is named twice gets the sum
        "contexts": fs.Rows(others.ravel(), of_contexts, shape),
    }


lr = schedules.linear(5e-3, 0.0, length=epochs, by="epoch")
opt = fs.AdamW(params, lr=lr, weight_decay=0.01)
loader = fs.Loader({"word": first, "context": second}, BATCH, seed=0, epochs=1)
print(f"{len(words)} words, {len(first)} pairs")
for epoch in range(1, epochs + 1):
    losses = []
    for batch in loader:
        negatives = np.searchsorted(noise, random.random((batch.size, NEGATIVES)))
        others = np.column_stack([batch["context"], negatives])
        opt.fetch("words", batch["word"])  # brings these rows up to date
        opt.fetch("contexts", others.ravel())
        loss, grads = loss_and_grads(batch["word"], others)
        opt.step(grads, clock=batch.clock)
        losses.append(loss)
    print(f"epoch {epoch}: loss {np.mean(losses):.4f}")

opt.flush()  # and all others
vectors = params["words"] / np.linalg.norm(params["words"], axis=1, keepdims=True)
for word in ("int", "list", "import", "class", "exception", "yield", "true", "try"):
    nearest = np.argsort(-(vectors @ vectors[np.searchsorted(words, word)]))[1:6]
    print(f"{word}: {' '.join(words[nearest])}")

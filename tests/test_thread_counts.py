"""How many threads there are: the environment, the function, threadpoolctl, joblib."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import fusestep as fs


def _threads_under(**environment: str) -> str:
    unset = ("OMP_NUM_THREADS", "FUSESTEP_NUM_THREADS")
    clean = {name: value for name, value in os.environ.items() if name not in unset}
    return subprocess.run(
        [sys.executable, "-c", "import fusestep; print(fusestep.get_num_threads())"],
        env={**clean, **environment},
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"OMP_NUM_THREADS": "3"}, "3"),
        ({"OMP_NUM_THREADS": "5,2"}, "5"),
        ({"OMP_NUM_THREADS": "3", "FUSESTEP_NUM_THREADS": "7"}, "7"),
    ],
)
def test_openmps_variable_holds_unless_fusesteps_own_is_set(
    environment: dict[str, str], expected: str
) -> None:
    assert _threads_under(**environment) == expected


@pytest.mark.parametrize("nonsense", ["", "0", "-2", "many", "3x", "99999999999999999999"])
def test_a_senseless_variable_of_openmp_is_ignored(nonsense: str) -> None:
    assert _threads_under(OMP_NUM_THREADS=nonsense) == _threads_under()


def test_threadpoolctl_sees_and_limits_the_threads() -> None:
    threadpoolctl = pytest.importorskip("threadpoolctl", minversion="3.2")
    fs.set_num_threads(3)
    (own,) = (i for i in threadpoolctl.threadpool_info() if i["user_api"] == "fusestep")
    assert (own["num_threads"], own["version"]) == (3, fs.__version__)
    with threadpoolctl.threadpool_limits(limits=1):
        assert fs.get_num_threads() == 1
    assert fs.get_num_threads() == 3


def test_workers_of_joblib_do_not_take_more_threads_than_their_share() -> None:
    joblib = pytest.importorskip("joblib")
    with joblib.parallel_config("loky", n_jobs=2, inner_max_num_threads=1):
        assert joblib.Parallel()(joblib.delayed(fs.get_num_threads)() for _ in range(2)) == [1, 1]

"""A run that is killed at any moment has lost nothing that was said to be saved."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("safetensors")
pytest.importorskip("xxhash")


@pytest.mark.unsanitized  # the sanitizer does not survive such forks
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks each life")
@pytest.mark.parametrize("seed", [0, 1])
def test_after_each_kill_the_newest_checkpoint_has_the_bits_of_the_run_that_never_stopped(
    seed: int,
) -> None:
    command = [sys.executable, "-m", "runs.checkpointing", "10", str(seed)]
    folder = Path(__file__).parent
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert (done.stderr, done.returncode) == ("", 0)
    assert "'kills': 10" in done.stdout

"""`python -m bench COMMAND`: every command is a module of this package with a function `run`."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from .peers import torch_absent

COMMANDS = {
    "step": "the time of one optimizer step on the CPU, beside other libraries",
    "sparse": "the time of a step that touches some rows of a table, beside other libraries",
    "gpu": "the time of one optimizer step on the GPU, beside other libraries",
    "data": "the time of an epoch of batches, beside other loaders",
    "checkpoint": "the time of saving and loading a run, beside other libraries",
    "distributed": "the time and memory of a step of several processes, beside other ways",
    "schedule": "the time of schedules, beside other libraries",
    "torch": "the time of a step over tensors of torch, beside its own optimizers",
    "sklearn": "the time of scikit-learn's networks with their own Adam, and with fusestep's",
    "rules": "every rule on handwritten digits, each with the best rate of the same sweep",
    "reproduce": "published claims in small, with lines to pass and controls that must miss them",
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, summary in COMMANDS.items():
        add = commands.add_parser(name, help=summary, description=summary).add_argument
        add("--out", type=Path, help="folder for JSON and PNG (default: print only)")
        add("--quick", action="store_true", help="small and short, as a smoke test")
        add("--markdown", action="store_true", help="print tables in Markdown")
        add("--only", nargs="+", default=[], metavar="NAME", help="some parts, or some models")
        if name == "reproduce":
            add("--mnist", type=Path, metavar="FOLDER", help="the files of MNIST; else not run")
    options = parser.parse_args(arguments)
    if options.command == "torch" and (reason := torch_absent()):
        print(f"absent: {reason}")
        return 0
    run = importlib.import_module(f"bench.{options.command}").run
    return int(run(options))


if __name__ == "__main__":
    sys.exit(main())

"""The command line: ``python -m fusestep demo``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m fusestep", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser("demo", help="train on handwritten digits, beside pure NumPy")
    demo.add_argument(
        "-o", "--out", type=Path, default=Path("fusestep-demo.png"), help="the picture"
    )
    demo.add_argument("--epochs", type=int, default=30)
    demo.add_argument("--quick", action="store_true", help="two epochs")
    arguments = parser.parse_args()
    try:
        from .demo import main as run_demo

        return run_demo(2 if arguments.quick else arguments.epochs, arguments.out)
    except ImportError as error:
        print(f'{error}; the demo needs: pip install "fusestep[demo]"', file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())

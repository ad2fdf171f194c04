"""The command line: ``python -m fusestep demo``, ``plot``, ``find-lr`` and ``info``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .info import lines, missing


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m fusestep", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser("demo", help="train on handwritten digits, beside pure NumPy")
    demo.add_argument(
        "-o", "--out", type=Path, default=Path("fusestep-demo.png"), help="the picture"
    )
    demo.add_argument("--epochs", type=int, default=30)
    demo.add_argument("--quick", action="store_true", help="two epochs")
    plot = commands.add_parser("plot", help="draw schedules")
    plot.add_argument(
        "expressions",
        nargs="*",
        metavar="EXPRESSION",
        help='as in "warmup_cosine(peak=1e-3, warmup=500, total=10000)"',
    )
    plot.add_argument("--all", action="store_true", help="draw every curve there is")
    plot.add_argument("--steps", type=float, default=1000, help="where the picture ends")
    plot.add_argument("--by", default="step", choices=("step", "samples", "epoch"))
    plot.add_argument("-o", "--out", type=Path, default=Path("fusestep-plot.png"))
    find_lr = commands.add_parser("find-lr", help="find a learning rate by a range test")
    find_lr.add_argument(
        "--demo",
        action="store_true",
        required=True,
        help="of a network on handwritten digits; for your own call fusestep.tune.lr_range",
    )
    find_lr.add_argument(
        "-o", "--out", type=Path, default=Path("fusestep-find-lr.png"), help="the picture"
    )
    commands.add_parser("info", help="what is installed here")
    arguments = parser.parse_args()
    if arguments.command == "plot" and arguments.all == bool(arguments.expressions):
        plot.error("give expressions, or --all")
    extra = "demo" if arguments.command == "find-lr" else arguments.command
    if absent := missing(extra, arguments.command):  # before minutes of work, not after
        print(f"error: {absent}", file=sys.stderr)
        return 1
    try:
        return _run(arguments)
    except (TypeError, ValueError, OSError) as error:
        if arguments.command != "plot":
            raise
        print(f"error: {error}", file=sys.stderr)
    return 1


def _run(arguments: argparse.Namespace) -> int:
    if arguments.command == "demo":
        from .demo import main as run_demo

        return run_demo(2 if arguments.quick else arguments.epochs, arguments.out)
    if arguments.command == "plot":
        from . import gallery

        if arguments.all:
            return gallery.plot_all(arguments.out)
        return gallery.plot(arguments.expressions, arguments.steps, arguments.by, arguments.out)
    if arguments.command == "find-lr":
        from .tune.digits import main as find_lr

        return find_lr(arguments.out)
    print("\n".join(lines()))
    return 0


if __name__ == "__main__":
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""Entry point of `tracker-ros`."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from tracker_ros import __version__
from tracker_ros.cli import convert_checkpoint, engines, evaluate, export, models, track, train
from tracker_ros.process import SLEEPING, SPINNING, set_waiting

COMMANDS = {
    "track": track,
    "models": models,
    "evaluate": evaluate,
    "train": train,
    "export": export,
    "engines": engines,
    "convert-checkpoint": convert_checkpoint,
}
"""Commands by name; each module has SUMMARY, add_arguments(parser) and run(args) -> exit code."""

USAGE_ERROR = 2
INTERRUPTED = 130


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog="tracker-ros",
        description="Follow one thing in a video, measure and train trackers; no ROS needed.",
    )
    parser.add_argument("--version", action="version", version=f"tracker-ros {__version__}")
    parser.add_argument(
        "--traceback", action="store_true", help="show where in the code an error arose"
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, module in COMMANDS.items():
        command = commands.add_parser(
            name,
            help=module.SUMMARY,
            description=(module.__doc__ or module.SUMMARY).splitlines()[0],
        )
        module.add_arguments(command)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Arguments without the program's name; those of the process when None.

    Returns:
        Exit code: 0 for success, 2 for anything the user can mend (one line on stderr says
        what), 130 after Ctrl-C; a command may have others.
    """
    args = build_parser().parse_args(argv)
    logging.basicConfig(format="tracker-ros: %(message)s", level=logging.WARNING)
    try:
        return int(COMMANDS[args.command].run(args))
    except KeyboardInterrupt:
        print("tracker-ros: interrupted", file=sys.stderr)
        return INTERRUPTED
    except (ValueError, RuntimeError, OSError, ImportError) as error:
        if args.traceback:
            raise
        text = " ".join(str(error).split()) or type(error).__name__
        print(f"tracker-ros {args.command}: error: {text}", file=sys.stderr)
        return USAGE_ERROR


def program() -> int:
    """Run the command line as a program. Returns its exit status."""
    # A camera wants the cores beside a node, and workers that draw want them beside training.
    set_waiting(SLEEPING if sys.argv[1:2] == ["train"] else SPINNING)
    return main()


if __name__ == "__main__":
    sys.exit(program())

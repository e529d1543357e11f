# SPDX-License-Identifier: Apache-2.0
"""Run `tracker-ros`: parse the command line, call one command, report errors in one line."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from tracker_ros import __version__
from tracker_ros.cli.bag import BAG
from tracker_ros.cli.compare import COMPARE
from tracker_ros.cli.engines import ENGINES, EXPORT
from tracker_ros.cli.evaluate import EVALUATE
from tracker_ros.cli.models import CONVERT_CHECKPOINT, MODELS, TRAIN
from tracker_ros.cli.options import Command
from tracker_ros.cli.track import TRACK
from tracker_ros.cli.trax import TRAX
from tracker_ros.process import (
    SLEEPING,
    SPINNING,
    EndRequest,
    set_waiting,
    terminate_as_interrupt,
)

COMMANDS: dict[str, Command] = {
    "track": TRACK,
    "bag": BAG,
    "models": MODELS,
    "evaluate": EVALUATE,
    "compare": COMPARE,
    "train": TRAIN,
    "export": EXPORT,
    "engines": ENGINES,
    "convert-checkpoint": CONVERT_CHECKPOINT,
    "trax": TRAX,
}

USAGE_ERROR = 2
MAX_ERROR_LENGTH = 1200
"""Characters of an error that are printed; those of libraries can fill pages."""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="tracker-ros",
        description="Follow one thing in a video, measure and train trackers; no ROS needed.",
    )
    parser.add_argument("--version", action="version", version=f"tracker-ros {__version__}")
    parser.add_argument(
        "--traceback", action="store_true", help="show where in the code an error arose"
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        command.add_arguments(
            commands.add_parser(name, help=command.summary, description=command.description)
        )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command, given the arguments without the program's name. Returns the exit code.

    It is 0 for success, 2 for anything the user can correct (one line on stderr says what), 130
    after Ctrl-C, 143 after SIGTERM; a command may have others.
    """
    args = build_parser().parse_args(argv)
    logging.basicConfig(format="tracker-ros: %(message)s", level=logging.WARNING)
    try:
        status = int(COMMANDS[args.command].run(args))
        sys.stdout.flush()
        return status
    except KeyboardInterrupt as interrupt:
        print(f"tracker-ros {args.command}: interrupted", file=sys.stderr)
        request = EndRequest()
        request.note(interrupt)
        return request.status
    except BrokenPipeError:  # as in `tracker-ros models | head`: the reader has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, RuntimeError, OSError, ImportError, MemoryError) as error:
        if args.traceback:
            raise
        text = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, ImportError) and error.name == "torch":
            text = "this needs PyTorch, which is not installed: pip install torch"
        if len(text) > MAX_ERROR_LENGTH:
            text = f"{text[:MAX_ERROR_LENGTH]} ... (--traceback shows all)"
        print(f"tracker-ros {args.command}: error: {text}", file=sys.stderr)
        return USAGE_ERROR


def program() -> int:
    """Run the command line as a program. Returns its exit status."""
    # A camera wants the cores beside a node, and workers that draw want them beside training.
    set_waiting(SLEEPING if sys.argv[1:2] == ["train"] else SPINNING)
    terminate_as_interrupt()
    return main()


if __name__ == "__main__":
    sys.exit(program())

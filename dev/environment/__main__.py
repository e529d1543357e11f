# SPDX-License-Identifier: Apache-2.0
"""Builds the development environment in ``.dev/``; started by ``dev/setup`` and ``make setup``.

Where a ROS installation is sourced, that one is used; elsewhere ROS 2 Jazzy is put together from
Python packages. Finished steps are kept, so an interrupted or failed set-up goes on where it
stopped, and one without changes ends at once. Nothing outside ``.dev/`` is written.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from pathlib import Path

from layout import Layout
from second_underlay import SecondUnderlay
from sourced_ros import SourcedRos, sourced_prefixes
from steps import StepError, locked, run_steps
from underlay import Underlay


def main() -> int:
    """Set up; return the exit status."""
    parser = argparse.ArgumentParser(prog="dev/setup", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--clean", action="store_true", help="remove .dev/ first")
    parser.add_argument("--only", metavar="STEP", help="run this step and no other")
    parser.add_argument(
        "--distro",
        choices=(Underlay.distribution, SecondUnderlay.distribution),
        help=f"'{SecondUnderlay.distribution}' builds that one beside the usual environment, in "
        f".dev/{SecondUnderlay.distribution}, for dev/run --distro",
    )
    arguments = parser.parse_args()
    second = arguments.distro == SecondUnderlay.distribution
    layout = Layout(Path(__file__).resolve().parents[2], arguments.distro if second else "")
    started = time.monotonic()
    try:
        with locked(layout.dev / "lock"):
            if arguments.clean:
                _clear(layout.dev)
            ran = _set_up(layout, arguments.only)
    except StepError as error:
        print(f"\ndev/setup: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ndev/setup: interrupted; the next one goes on from here", file=sys.stderr)
        return 130
    if ran:
        print(f"development environment ready after {time.monotonic() - started:.0f} s")
    return 0


def _clear(folder: Path) -> None:
    """Empty ``folder`` except for the lock that is being held."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != "lock":
            path.unlink()


def _set_up(layout: Layout, only: str | None = None) -> list[str]:
    """Run the steps and write the environment file; return the names of the steps that ran.

    Args:
        layout: The checkout.
        only: Name of the one step to run; the environment file is then left as it is.

    Raises:
        StepError: A step failed, or there is none of this name.
    """
    kind: SourcedRos | Underlay
    if layout.part:
        kind = SecondUnderlay(layout)
    elif prefixes := sourced_prefixes(layout):
        kind = SourcedRos(layout, prefixes)
        print(f"using the sourced ROS installation in {prefixes[-1]}")
    else:
        kind = Underlay(layout)
    steps = kind.steps()
    if only is not None:
        if only not in (names := [step.name for step in steps]):
            raise StepError(f"there is no step '{only}': give one of {', '.join(names)}")
        return run_steps([step for step in steps if step.name == only], layout.dev)
    ran = run_steps(steps, layout.dev)
    _write(layout.dev / "env.sh", kind.exports())
    # dev/setup starts with the same interpreter again, whatever python3 is in that terminal.
    _write(layout.dev / "python", str(Path(sys.executable).resolve()))
    command = layout.dev / "bin" / "tracker-ros"
    _write(
        command,
        f"#!{layout.python}\nimport sys\n\nfrom tracker_ros.cli.main import main\n\n"
        "sys.exit(main())\n",
    )
    command.chmod(0o755)
    return ran


def _write(path: Path, text: str) -> None:
    """Write ``text`` so that a reader sees the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        part = path.with_suffix(".part")
        part.write_text(text, encoding="utf-8")
        part.replace(path)


if __name__ == "__main__":
    sys.exit(main())

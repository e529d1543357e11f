# SPDX-License-Identifier: Apache-2.0
"""Kill the real tracker in every state by SIGINT and SIGTERM, and judge how it ends.

    dev/run python -m tools.kills                       # 15 kills in each state, about 20 minutes
    dev/run python -m tools.kills --kills 50 --states idle tracking

The moment within a state is drawn by a seeded chance. A kill is good if the program ends with
status 0 within two seconds, its output holds no traceback, it leaves no process behind, and no
unfinished file is left in the cache. Prints a table and writes `out/kills.json`; the exit status
is 1 if a kill was not good.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import rclpy
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState

import tracker_ros
from tools.harness.domain import private_domain
from tools.harness.operator import INACTIVE, Operator, selection
from tools.harness.program import Program, node_command
from tools.soak.camera import Camera
from tracker_ros.evaluation.machine import describe_machine

LIMIT_S = 2.0
PATIENCE_S = 120.0
SIGNALS = (signal.SIGINT, signal.SIGTERM)
TORCH = ("backend:=torch",)
EXPORT = (
    "backend:=onnxruntime",
    "build_engine:=true",
    f"weights:={Path(tracker_ros.__file__).with_name('weights') / 'ostrack_tiny.safetensors'}",
)
"""Weights that are named are not those of the embedded graphs, so that theirs are exported."""
TROUBLE = re.compile(r"Traceback|Fatal Python error|terminate called|core dumped|Aborted")


@dataclass(frozen=True)
class Kill:
    """One kill and what came of it."""

    state: str
    signal: str
    status: int
    seconds: float
    problem: str


class Victim:
    """A tracker that is about to be killed, with a camera and an operator beside it.

    Args:
        folder: For its log, its caches and its temporary files.
        chance: Draws the moment.
        parameters: Of the node, as "name:=value".
    """

    def __init__(self, folder: Path, chance: random.Random, parameters: tuple[str, ...]) -> None:
        self.chance, self.folder = chance, folder
        self.cache = folder / "cache"
        (folder / "tmp").mkdir(parents=True)
        options = [word for each in parameters for word in ("-p", each)]
        self.program = Program(
            node_command("track", "--ros-args", *options),
            folder / "log",
            {"XDG_CACHE_HOME": str(self.cache), "TMPDIR": str(folder / "tmp")},
        )
        self.operator: Operator | None = None

    def join(self) -> Operator:
        """Enter the graph beside the tracker. Returns the operator."""
        self.operator = Operator("operator", alive=lambda: self.program.alive)
        return self.operator

    def wait_for(self, met: Callable[[], bool], what: str) -> None:
        """Wait for a condition; raises RuntimeError if it does not come."""
        end = time.monotonic() + PATIENCE_S
        while not met():
            if time.monotonic() > end or not self.program.alive:
                raise RuntimeError(f"{what} did not come: {self.program.last_line}")
            time.sleep(0.01)

    def wait_for_log(self, words: str) -> None:
        """Wait until the tracker has logged some words."""
        self.wait_for(lambda: words in self.program.output, words)

    def pause(self, most_s: float) -> None:
        """Let a drawn time pass."""
        time.sleep(self.chance.uniform(0.0, most_s))

    def takes_signals(self) -> bool:
        """Tell whether the program's own code runs, rather than Python's start."""
        try:
            status = Path(f"/proc/{self.program.pid}/status").read_text()
        except OSError:
            return False
        caught = int(re.search(r"SigCgt:\s*(\w+)", status)[1], 16)  # type: ignore[index]
        return bool(caught >> (signal.SIGTERM - 1) & 1)

    def kill(self, state: str, sign: signal.Signals, limit_s: float) -> Kill:
        """Send the signal and watch the end."""
        began = time.monotonic()
        self.program.send(sign)
        try:
            status = self.program.wait(limit_s + 10.0)
        except Exception:
            self.program.stop(signal.SIGKILL)
            status = 999
        seconds = time.monotonic() - began
        problems = []
        if status != 0:
            problems.append(f"status {status}")
        if seconds > limit_s:
            problems.append(f"took {seconds:.1f} s")
        if found := TROUBLE.search(self.program.output):
            problems.append(found[0])
        problems += [f"left {path.name}" for path in self.cache.rglob("*.part*")]
        if left := [path for path in (self.folder / "tmp").rglob("*") if path.is_file()]:
            problems.append(f"left {left[0].name}")
        return Kill(state, sign.name, status, round(seconds, 3), "; ".join(problems))

    def close(self) -> None:
        """Leave the graph, and end the program if it still runs."""
        if self.operator is not None:
            self.operator.close()
        if self.program.alive:
            self.program.stop(signal.SIGKILL)


def starting(victim: Victim) -> None:
    """Python has started and imports ROS."""
    victim.wait_for(victim.takes_signals, "the program's own code")
    victim.pause(1.0)


def loading(victim: Victim) -> None:
    """The worker imports torch and reads the weights."""
    victim.wait_for_log("loading model")
    victim.pause(2.0)


def exporting(victim: Victim) -> None:
    """The first start of a model exports its graphs."""
    victim.wait_for_log("exporting")
    victim.pause(8.0)


def warming_up(victim: Victim) -> None:
    """The graphs are open; the model tracks a first image."""
    victim.wait_for_log("runs on onnxruntime")
    victim.pause(0.3)


def idle(victim: Victim) -> None:
    """Active, without a target."""
    victim.wait_for_log("active: images from")
    victim.pause(0.5)


def tracking(victim: Victim) -> None:
    """Follows a target through a stream of images."""
    operator = victim.join()
    _follow(operator, victim)
    operator.spin(victim.chance.uniform(0.0, 0.5))


def requested(victim: Victim) -> None:
    """Several requests wait for images that are yet to come."""
    operator = victim.join()
    camera = _follow(operator, victim)
    header = camera.shown[-1].header
    header.stamp.sec += 1
    for _ in range(8):
        operator.selector.call_async(selection((20, 20, 40, 40), header, append=True))
    operator.spin(victim.chance.uniform(0.0, 0.4))


def cleaning_up(victim: Victim) -> None:
    """Deactivated, and half of the time in the middle of cleanup."""
    operator = victim.join()
    operator.until(operator.watched, "the node to become active", PATIENCE_S)
    operator.bring(INACTIVE)
    if victim.chance.random() < 0.5:
        cleanup = Transition(id=Transition.TRANSITION_CLEANUP)
        operator.changer.call_async(ChangeState.Request(transition=cleanup))
    victim.pause(0.1)


def _follow(operator: Operator, victim: Victim) -> Camera:
    """Show images until the tracker follows the first target. Returns the camera."""
    camera = Camera(1, 10, victim.chance)
    operator.until(operator.watched, "the node to become active", PATIENCE_S)

    def show() -> None:
        image = camera.next(operator.node.get_clock().now().nanoseconds)
        if image is not None:
            operator.images.publish(image)

    operator.node.create_timer(0.05, show)
    operator.until(lambda: camera.shown, "an image", PATIENCE_S)
    for _ in range(20):
        seen = camera.shown[-1]
        if operator.select(seen.box, seen.header).success:
            return camera
        operator.spin(0.1)
    raise RuntimeError("the tracker follows nothing")


STATES: dict[str, tuple[Callable[[Victim], None], tuple[str, ...]]] = {
    "starting": (starting, ()),
    "loading": (loading, TORCH),
    "exporting": (exporting, EXPORT),
    "warming up": (warming_up, ()),
    "idle": (idle, ()),
    "tracking": (tracking, ()),
    "request waits": (requested, ()),
    "cleanup": (cleaning_up, ()),
}


def kill_once(
    state: str, chance: random.Random, sign: signal.Signals, limit_s: float = LIMIT_S
) -> Kill:
    """Start a tracker, bring it into a state, and kill it."""
    reach, parameters = STATES[state]
    with tempfile.TemporaryDirectory() as folder:
        victim = Victim(Path(folder), chance, parameters)
        try:
            reach(victim)
            kill = victim.kill(state, sign, limit_s)
            if kill.problem:
                print(f"\n{state}, {sign.name}: {kill.problem}\n{victim.program.output[-2000:]}")
            return kill
        finally:
            victim.close()


def table(kills: list[Kill]) -> str:
    """Return a Markdown table: one line for each state."""
    lines = ["| State | Kills | Good | Median | Longest |", "| --- | ---: | ---: | ---: | ---: |"]
    for state in STATES:
        of_state = sorted((k for k in kills if k.state == state), key=lambda kill: kill.seconds)
        if of_state:
            good = sum(not kill.problem for kill in of_state)
            median, longest = of_state[len(of_state) // 2].seconds, of_state[-1].seconds
            lines.append(
                f"| {state} | {len(of_state)} | {good} | {median:.2f} s | {longest:.2f} s |"
            )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Kill, print the table, write the results. Returns 0 if all kills were good, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.kills", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--kills", type=int, default=15, help="in each state (%(default)d)")
    parser.add_argument("--states", nargs="+", choices=list(STATES), default=list(STATES))
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=Path("out/kills.json"), help="%(default)s")
    options = parser.parse_args(argv)
    chance = random.Random(options.seed)
    kills: list[Kill] = []
    with private_domain():
        rclpy.init()
        with suppress(KeyboardInterrupt):  # the kills so far are judged
            for state in options.states:
                for number in range(options.kills):
                    kills.append(kill_once(state, chance, SIGNALS[number % 2]))
                print(table(kills).splitlines()[-1], flush=True)
        rclpy.try_shutdown()
    print(table(kills))
    facts = {"kills": [asdict(kill) for kill in kills], "machine": asdict(describe_machine())}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(facts, indent=1) + "\n")
    return 1 if any(kill.problem for kill in kills) else 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""Soak the real node: many minutes of everything that goes wrong on a robot, then judge it.

    make soak                                        # ten minutes
    dev/run python -m tools.soak --minutes 2 --seed 7

A synthetic camera stalls, jumps in time, changes its resolution and sends broken images; an
operator selects, clears, pauses, floods and reconfigures, well and badly, by a seeded chance; the
model fails, and a listener stops. In between the node is brought to rest, deactivated, and its
memory read. Then the node is ended in every way and started again, with a full disk and with a
damaged cache too. The soak passes, with status 0, if

- the node's log holds no exception, fault or unexpected error, and the node ends with status 0;
- every node that was ended or broken had the right exit status, and every new one followed;
- every request was answered, and every refusal gave a reason;
- the counters of every status add up, and in a calm stretch at the end agree with the camera;
- the memory at rest has grown by less than 5 % from the second quarter to the last of the time
  after each action has been done once.

Writes `out/soak.json` and `out/soak.log`, the node's log.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import rclpy

from tools.harness import HarnessError
from tools.harness.domain import private_domain
from tools.harness.operator import ACTIVE, INACTIVE
from tools.harness.program import Program, python_command
from tools.soak.actions import Actions
from tools.soak.camera import Camera
from tools.soak.driver import Driver
from tools.soak.endings import START_S, WAYS, end_in_each_way, start_among_damaged_files, starter
from tracker_interfaces.msg import TargetStatus
from tracker_ros.cli.options import progress_bar
from tracker_ros.evaluation.machine import describe_machine

SCENE_FRAMES = 40
REST_EVERY_S = 10.0
CALM_S, CALM_HZ = 5.0, 10.0
MAX_GROWTH = 0.05
MIN_RECEIVED = 0.5
"""Share of the images shown in calm; a busy machine loses some (best effort, depth 1)."""
EXPECTED_ERRORS = re.compile(
    r"image on \S+ skipped: (image|an? |step|data)|not activated: model |"
    r"broken on command|the model returned the (box \(nan|score 7)|"
    r"cannot be loaded: .*no_such_file|No transition matching|Unable to start transition"
)
FAULTS = re.compile(
    r"Traceback|Exception|fault in the worker|failed( on this selection)?:|\bFATAL\b"
)


def rest(driver: Driver, node: Program) -> float:
    """Deactivate the node and activate it again. Returns the MiB it held in between."""
    driver.camera.heal()
    driver.look(False)
    driver.bring(INACTIVE)
    driver.spin(0.5)
    held = node.resident_mib
    driver.bring(ACTIVE)
    return held


def calm(driver: Driver) -> list[str]:
    """Follow a healthy camera after a fresh start. Returns what is wrong afterwards."""
    driver.camera.heal()
    driver.set_rate(0.0)
    driver.bring(INACTIVE)
    driver.set(score_found=0.45, score_lost=0.35, lost_after=1.0)
    driver.set(buffer_seconds=5.0, buffer_megabytes=256.0)
    if not driver.bring(ACTIVE) or not driver.wait(driver.watched, 10.0):
        return ["the node does not become active at the end"]
    driver.spin(1.0)
    before = driver.camera.published
    driver.set_rate(CALM_HZ)
    driver.wait(lambda: driver.camera.shown, 5.0)
    seen = driver.camera.shown[-1]
    answer = driver.select(seen.box, seen.header)
    if not answer.success:
        return [f"the last selection was refused: {answer.message}"]
    driver.spin(CALM_S)
    driver.set_rate(0.0)
    driver.wait(lambda: driver.status.header.stamp == driver.newest_stamp, 10.0)
    status, shown = driver.status, driver.camera.published - before
    wrong = []
    if not MIN_RECEIVED * shown <= status.frames_received <= shown:
        wrong.append(f"{shown} images shown in calm, {status.frames_received} received")
    if status.state != TargetStatus.TRACKING or status.frames_tracked < 1:
        wrong.append(f"in calm the state is {status.state}, {status.frames_tracked} tracked")
    if status.frames_rejected:
        wrong.append(f"{status.frames_rejected} healthy images rejected")
    return wrong


def growth(rests: list[float]) -> float:
    """Return how much the memory at rest grew from the second quarter to the last, as a share."""
    quarter = max(1, len(rests) // 4)
    early, late = rests[quarter : 2 * quarter], rests[-quarter:]
    return statistics.median(late) / statistics.median(early) - 1


def log_faults(text: str) -> list[str]:
    """Return the lines of the node's log that should not be there, each kind once."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        expected = EXPECTED_ERRORS.search(line)
        if FAULTS.search(line) or ("[ERROR]" in line and not expected):
            found.setdefault(re.sub(r"[\d.]+", "#", line), line)
    return list(found.values())


def end_and_start_again(command: Path, camera: Camera, log: Path, *, thorough: bool) -> list[str]:
    """End the node in each way; if thorough, start it among damaged files, too."""
    start = starter(command, log.with_name("soak_endings.log"))
    ways = list(WAYS) if thorough else ["SIGTERM", "a model that hangs"]
    try:
        wrong = end_in_each_way(start, camera, command, ways)
        if thorough:
            with tempfile.TemporaryDirectory() as folder:
                wrong += start_among_damaged_files(start, camera, Path(folder))
    except HarnessError as error:
        return [str(error)]
    return wrong


def soak(minutes: float, seed: int, backend: str, log: Path) -> dict[str, Any]:
    """Drive the node for so long. Returns everything that was counted, and the verdict."""
    chance = random.Random(seed)
    camera = Camera(seed, SCENE_FRAMES, chance)
    done: Counter[str] = Counter()
    rests: list[float] = []
    wrong: list[str] = []
    command = log.with_name("soak_command")
    command.write_text("")
    with (
        starter(command, log)(f"backend:={backend}") as node,
        Program(python_command("tools.soak.listener")) as listener,
        Driver(camera, lambda: node.alive, lambda: node.send(signal.SIGUSR1)) as driver,
    ):
        actions = Actions(driver, chance, command, listener)
        driver.set_rate(30.0)
        try:
            driver.until(driver.watched, "the node to become active", START_S)
            begin = rested = time.monotonic()
            with progress_bar(total=round(minutes * 60), unit="s", desc="soaking") as bar:
                while bar.n < bar.total or not actions.all_tried:
                    done[actions.do_one()] += 1
                    driver.spin(chance.uniform(0.0, 0.4))
                    if actions.all_tried and time.monotonic() - rested > REST_EVERY_S:
                        rests.append(rest(driver, node))
                        rested = time.monotonic()
                    bar.update(min(round(time.monotonic() - begin), bar.total) - bar.n)
            rests.append(rest(driver, node))
            wrong += calm(driver)
        except HarnessError as error:
            wrong.append(str(error))
    if node.status != 0:
        wrong.append(f"the node ended with status {node.status}")
    wrong += end_and_start_again(command, camera, log, thorough=minutes >= 1)
    wrong += driver.silent_refusals
    if driver.wrong_statuses:
        count = len(driver.wrong_statuses)
        wrong.append(f"{count} statuses are contradictory: {driver.wrong_statuses[0]}")
    wrong += log_faults(node.output)
    grown = growth(rests) if len(rests) >= 4 else 0.0
    if grown >= MAX_GROWTH:
        wrong.append(
            f"memory at rest has grown by {grown:.1%}: {[round(mib) for mib in rests]} MiB"
        )
    return {
        "passed": not wrong,
        "wrong": wrong,
        "seed": seed,
        "minutes": minutes,
        "actions": dict(done),
        "requests": dict(driver.requests),
        "images": {"published": camera.published, "broken": camera.broken},
        "statuses": driver.statuses,
        "boxes": driver.boxes_heard,
        "standstills": driver.standstills,
        "rest_mib": [round(mib, 1) for mib in rests],
        "growth": round(grown, 4),
        "machine": asdict(describe_machine()),
    }


def main(argv: list[str] | None = None) -> int:
    """Soak and judge. Returns 0 if nothing was wrong, else 1 after printing what was."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.soak", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=10.0,
        help="at least until each action is done once (%(default)g)",
    )
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--backend", default="auto", help="of the node (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the results")
    options = parser.parse_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    with private_domain():
        rclpy.init()
        verdict = soak(options.minutes, options.seed, options.backend, options.out / "soak.log")
        rclpy.shutdown()
    (options.out / "soak.json").write_text(json.dumps(verdict, indent=2) + "\n")
    sent = sum(verdict["requests"].values())
    print(
        f"{options.minutes:g} minutes, seed {options.seed}: {sent} requests, "
        f"{verdict['images']['published']} images ({verdict['images']['broken']} broken), "
        f"{verdict['statuses']} statuses, memory at rest {verdict['growth']:+.1%}"
    )
    for line in verdict["wrong"]:
        print(f"WRONG: {line}", file=sys.stderr)
    return 0 if verdict["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())

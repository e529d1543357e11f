# SPDX-License-Identifier: Apache-2.0
"""Soak the real node: many minutes of everything that goes wrong on a robot, then judge it.

    make soak                                        # ten minutes
    dev/run python -m tools.soak --minutes 2 --seed 7

A synthetic camera stalls, jumps in time, changes its resolution and its transport and sends
broken images, calibrations, depth and transforms; an operator and a ground station select, clear,
pause, flood and reconfigure, well and badly, by a seeded chance; the model fails, and a listener
stops. In between the node is brought to rest, deactivated, and its memory read. Then the node is
ended and started again; from five minutes on in every way, with a full disk and with a damaged
cache too. The soak passes, with status 0, if

- the logs hold no exception, fault or unexpected error;
- every node that was ended or broken had the right exit status, and every new one followed;
- every request was answered, and every refusal gave a reason;
- the counters of every status add up, and in a calm stretch at the end every image is tracked;
- the memory at rest has grown by less than 5 % from the second quarter to the last of the time
  after each action has been done once.

Writes `out/soak.json` and `out/soak.log`, the node's log.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import rclpy

from tools.harness import HarnessError
from tools.harness.domain import private_domain
from tools.harness.ground_station import GroundStation, free_port
from tools.harness.program import Program, node_command, python_command
from tools.soak.actions import Actions
from tools.soak.camera import Camera
from tools.soak.driver import Driver
from tools.soak.endings import START_S, WAYS, end_in_each_way, start_among_damaged_files, starter
from tools.soak.judge import MAX_GROWTH, calm, growth, log_faults, rest
from tracker_ros.cli.options import progress_bar
from tracker_ros.evaluation.machine import describe_machine

SCENE_FRAMES = 40
REST_EVERY_S = 10.0
THOROUGH_MINUTES = 5.0
"""From here on the node is ended in every way, and started among damaged files."""


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
    rests: dict[str, list[float]] = {"track": [], "mavlink_bridge": []}
    wrong: list[str] = []
    command = log.with_name("soak_command")
    command.write_text("")
    port = free_port()
    with (
        starter(command, log)(f"backend:={backend}") as node,
        Program(
            node_command(
                "mavlink_bridge", "--ros-args", "-p", f"connections:=udpin:127.0.0.1:{port}"
            ),
            log.with_name("soak_mavlink.log"),
        ) as bridge,
        Program(python_command("tools.soak.listener")) as listener,
        Driver(camera, lambda: node.alive, lambda: node.send(signal.SIGUSR1)) as driver,
        closing(GroundStation(port, busy=lambda: driver.spin(0.02))) as station,
    ):

        def read_memory() -> None:
            rests["track"].append(rest(driver, node))
            rests["mavlink_bridge"].append(bridge.resident_mib)

        actions = Actions(driver, chance, command, listener, station)
        driver.set_rate(30.0)
        try:
            driver.until(driver.watched, "the node to become active", START_S)
            begin = rested = time.monotonic()
            with progress_bar(total=round(minutes * 60), unit="s", desc="soaking") as bar:
                while bar.n < bar.total or not actions.all_tried:
                    done[actions.do_one()] += 1
                    driver.spin(chance.uniform(0.0, 0.4))
                    if actions.all_tried and time.monotonic() - rested > REST_EVERY_S:
                        read_memory()
                        rested = time.monotonic()
                    bar.update(min(round(time.monotonic() - begin), bar.total) - bar.n)
            read_memory()
            wrong += calm(driver)
        except HarnessError as error:
            wrong.append(str(error))
    for name, program in (("track", node), ("mavlink_bridge", bridge), ("listener", listener)):
        if program.status != 0:
            wrong.append(f"{name} ended with status {program.status}")
    wrong += end_and_start_again(command, camera, log, thorough=minutes >= THOROUGH_MINUTES)
    wrong += driver.silent_refusals
    if driver.wrong_statuses:
        count = len(driver.wrong_statuses)
        wrong.append(f"{count} statuses are contradictory: {driver.wrong_statuses[0]}")
    wrong += log_faults(node.output) + log_faults(bridge.output)
    grown = {name: growth(held) for name, held in rests.items()}
    wrong += [
        f"the memory of {name} has grown by {share:.1%}: {[round(mib) for mib in rests[name]]} MiB"
        for name, share in grown.items()
        if share is not None and share >= MAX_GROWTH
    ]
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
        "places": dict(driver.places_heard),
        "standstills": driver.standstills,
        "rest_mib": {name: [round(mib, 1) for mib in held] for name, held in rests.items()},
        "growth": grown,
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
        f"{verdict['statuses']} statuses, memory at rest: "
        + ", ".join(
            f"{name} " + ("too few readings" if share is None else f"{share:+.1%}")
            for name, share in verdict["growth"].items()
        )
    )
    for line in verdict["wrong"]:
        print(f"WRONG: {line}", file=sys.stderr)
    return 0 if verdict["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())

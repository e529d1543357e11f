# SPDX-License-Identifier: Apache-2.0
"""Judge a soak: the node at rest, the node in calm, its memory and its log."""

from __future__ import annotations

import re
import statistics
from collections import Counter

from tools.harness.operator import ACTIVE, INACTIVE, UNCONFIGURED
from tools.harness.program import Program
from tools.soak.driver import Driver
from tools.soak.space import FIXED_FRAME, GOOD
from tracker_interfaces.msg import TargetStatus

SETTLED_MIB = 1.0
MAX_GROWTH = 0.05
MIN_RESTS = 24
"""With fewer readings, those of four minutes, the growth of memory is not judged."""
CALM_IMAGES = 30
MAX_LOST_IMAGES = 30
EXPECTED_ERRORS = re.compile(
    r"image on \S+ skipped: (image|compressed image|an? |step|data)|not activated: model |"
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
    driver.look_where(False)
    driver.bring(INACTIVE)
    held = node.resident_mib
    while True:  # what is freed may go back to the system a moment later
        driver.spin(0.5)
        before, held = held, node.resident_mib
        if abs(held - before) < SETTLED_MIB:
            break
    driver.bring(ACTIVE)
    return held


def calm(driver: Driver) -> list[str]:
    """Follow a healthy camera after a fresh start, image by image. Returns what is wrong.

    Each image waits for the status of the one before, so nothing depends on how fast the machine
    is: every image must be counted, tracked and answered with a direction and a pose.
    """
    driver.camera.heal()
    driver.set_rate(0.0)
    driver.bring(UNCONFIGURED)
    driver.set(fixed_frame=FIXED_FRAME, target_frame_prefix="")
    driver.set(score_found=0.6, score_lost=0.5, lost_after=1.0)
    driver.set(buffer_seconds=5.0, buffer_megabytes=256.0)
    driver.set(predict=False, image_rectified=False, target_size_m=0.0, depth_tolerance=0.05)
    driver.bring(ACTIVE)
    driver.look_where(True)
    space = driver.camera.space
    space.calibration = space.depth = space.transform = GOOD
    before = driver.camera.published
    heard = 0
    chosen = False
    places: Counter[str] = Counter()
    for _ in range(CALM_IMAGES + MAX_LOST_IMAGES):
        heard += driver.show_one()
        if heard and not chosen:
            seen = driver.camera.shown[-1]
            answer = driver.select(seen.box, seen.header)
            if not answer.success:
                return [f"the last selection was refused: {answer.message}"]
            chosen = True
            places = Counter(driver.places_heard)
        if heard >= CALM_IMAGES:
            break
    else:
        return [f"of {CALM_IMAGES + MAX_LOST_IMAGES} images shown in calm only {heard} came"]
    status, shown = driver.status, driver.camera.published - before
    wrong = []
    if not heard <= status.frames_received <= shown:
        wrong.append(f"{shown} images shown in calm, {status.frames_received} received")
    if status.state != TargetStatus.TRACKING or status.frames_tracked < heard - 2:
        wrong.append(f"in calm the state is {status.state}, {status.frames_tracked} tracked")
    if status.frames_rejected:
        wrong.append(f"{status.frames_rejected} healthy images rejected")
    for topic in ("target_direction", "target_pose"):
        if not driver.wait(lambda topic=topic: driver.places_heard[topic] > places[topic]):
            wrong.append(f"in calm nothing comes on {topic}")
    return wrong


def growth(rests: list[float]) -> float | None:
    """Return how much the memory at rest grew from the second quarter to the last, as a share.

    None if there are too few readings.
    """
    if len(rests) < MIN_RESTS:
        return None
    quarter = max(1, len(rests) // 4)
    early, late = rests[quarter : 2 * quarter], rests[-quarter:]
    return round(statistics.median(late) / statistics.median(early) - 1, 4)


def log_faults(text: str) -> list[str]:
    """Return the lines of the node's log that should not be there, each kind once."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        expected = EXPECTED_ERRORS.search(line)
        if FAULTS.search(line) or ("[ERROR]" in line and not expected):
            found.setdefault(re.sub(r"[\d.]+", "#", line), line)
    return list(found.values())

# SPDX-License-Identifier: Apache-2.0
"""Show what `predict` does to the error of a box by the time that somebody uses it.

    dev/run python -m tools.benchmarks.prediction

A box of 60 x 120 px moves in known ways through images at 30 Hz. Each box is seen with the noise
of a good tracker and used after a delay. The error is the distance between the centre that is used
and the true one at that moment: of the box as it was seen, and of the one that the package's
filter predicts.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tools.benchmarks.rows import Row, publish
from tracker_ros.spatial.target_locator import TargetLocator

DELAYS_MS = (30, 60, 120)
RATE_HZ, SECONDS, SETTLE_S = 30.0, 60.0, 1.0
SIZE = np.array([60.0, 120.0])
NOISE_PX = 1.5
COLUMNS = (
    "motion",
    "delay_ms",
    "seen_p50_px",
    "predicted_p50_px",
    "seen_p95_px",
    "predicted_p95_px",
)

Motion = Callable[[float], tuple[float, float]]


def _zigzag(t: float) -> tuple[float, float]:
    """Walk to and fro at 150 px/s, turning about at once every 1.5 seconds."""
    phase = t % 3.0
    return (150.0 * (phase if phase < 1.5 else 3.0 - phase), 0.0)


MOTIONS: dict[str, Motion] = {
    "stands still": lambda t: (0.0, 0.0),
    "passes by at 150 px/s": lambda t: (150.0 * t, 10.0 * t),
    "swings, 0.5 Hz, +-100 px": lambda t: (100.0 * math.sin(math.pi * t), 0.0),
    "turns about every 1.5 s, 150 px/s": _zigzag,
    "passes by, camera shakes, 4 Hz, +-5 px": lambda t: (
        150.0 * t + 5.0 * math.sin(8 * math.pi * t),
        5.0 * math.cos(8 * math.pi * t),
    ),
}


def errors_px(
    motion: Motion, delay_s: float, seconds: float = SECONDS
) -> tuple[np.ndarray, np.ndarray]:
    """Return the errors (N,) of the boxes as seen and as predicted, pixels."""
    rng, locator = np.random.default_rng(0), TargetLocator()
    seen, predicted = [], []
    for index in range(round(seconds * RATE_HZ)):
        time_s = index / RATE_HZ
        centre = np.array(motion(time_s)) + NOISE_PX * rng.standard_normal(2)
        size = SIZE * (1.0 + 0.03 * rng.standard_normal(2))
        x, y, w, h = (*(centre - size / 2), *size)
        locator.observe_box(time_s, (float(x), float(y), float(w), float(h)))
        ahead = locator.box_at(time_s + delay_s)
        if time_s < SETTLE_S or ahead is None:
            continue
        truth = np.array(motion(time_s + delay_s))
        seen.append(math.dist(centre, truth))
        predicted.append(math.dist((ahead[0] + ahead[2] / 2, ahead[1] + ahead[3] / 2), truth))
    return np.array(seen), np.array(predicted)


def rows() -> list[Row]:
    """Return one row for each motion and delay."""
    found = []
    for name, motion in MOTIONS.items():
        for delay_ms in DELAYS_MS:
            seen, predicted = errors_px(motion, delay_ms / 1e3)
            found.append(
                {
                    "motion": name,
                    "delay_ms": delay_ms,
                    "seen_p50_px": float(np.median(seen)),
                    "predicted_p50_px": float(np.median(predicted)),
                    "seen_p95_px": float(np.percentile(seen, 95)),
                    "predicted_p95_px": float(np.percentile(predicted, 95)),
                }
            )
    return found


def main() -> None:
    """Print the table; with `--json`, write the rows too."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the rows here too")
    publish(rows(), COLUMNS, 1, parser.parse_args().json)


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""Whether a tracker drifts, and its memory grows, over drawn scenes of thousands of frames.

    dev/run python -m tools.benchmarks.long_scenes --models ostrack_tiny

Each scene starts on the true box and gets no help afterwards. Occluders hide the target, it leaves
the image and comes back, and others like it cross. The success AUC of the second half of the
frames is to be within 0.03 of that of the first. Memory is the process's own, in frame 500 and at
the end.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np

from tracker_ros.evaluation.metrics import success_curve
from tracker_ros.following.follower import Follower
from tracker_ros.following.frames import number_frames
from tracker_ros.following.redetection import RedetectionSettings
from tracker_ros.following.selection import Selection
from tracker_ros.following.target_set import TargetSet
from tracker_ros.geometry import iou
from tracker_ros.registry import create_tracker
from tracker_ros.synthetic.scene_video import SceneConfig, SyntheticFrame, synthetic_video
from tracker_ros.tracker import Tracker

SIZE = (320, 240)
CONFIG = SceneConfig(leaves=True, distractors=3, occluders=2)
MIN_VISIBLE = 0.35
SETTLED = 500


def resident_megabytes() -> float:
    """Return the memory of this process that is not shared, MB."""
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("RssAnon"))


def follow(tracker: Tracker, seed: int, frames: int, redetect: bool) -> tuple[np.ndarray, float]:
    """Return the overlap in each frame, NaN while the target is hidden, and the memory's growth.

    The growth is that of the process from frame 500 to the end, MB.
    """
    shown: list[SyntheticFrame] = []

    def images() -> Iterator[np.ndarray]:
        for frame in synthetic_video(seed, frames, SIZE, CONFIG):
            shown[:] = [frame]
            yield frame.image

    settings = RedetectionSettings() if redetect else None
    follower = Follower[np.ndarray](
        lambda image: image, TargetSet(tracker=tracker, redetection=settings)
    )
    first = next(synthetic_video(seed, 1, SIZE, CONFIG)).box
    overlaps: list[float] = []
    settled = 0.0
    for report in follower.follow(Selection(first), number_frames(images())):
        result = report.first.result
        assert result is not None
        seen = shown[0].visibility > MIN_VISIBLE
        overlaps.append(iou(result.box, shown[0].box) if seen else np.nan)
        if len(overlaps) == SETTLED:
            settled = resident_megabytes()
    return np.array(overlaps), resident_megabytes() - settled


def half_scores(overlaps: np.ndarray) -> tuple[float, float]:
    """Return the success AUC of the first and of the second half of the frames."""
    halves = np.split(overlaps, [len(overlaps) // 2])
    first, second = (float(success_curve(half[np.isfinite(half)]).mean()) for half in halves)
    return first, second


def main() -> None:
    """Print a row of a Markdown table for each model and scene."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["ostrack_tiny"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--frames", type=int, default=3000)
    parser.add_argument("--no-redetect", action="store_true")
    arguments = parser.parse_args()
    print("| Model | Scene | Frames | AUC, first half | AUC, second half | Memory grows by |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for model in arguments.models:
        tracker = create_tracker(model)
        for seed in arguments.seeds:
            overlaps, growth = follow(tracker, seed, arguments.frames, not arguments.no_redetect)
            first, second = half_scores(overlaps[1:])
            print(
                f"| {model} | {seed} | {len(overlaps)} | {first:.3f} | {second:.3f} "
                f"| {growth:.1f} MB |",
                flush=True,
            )


if __name__ == "__main__":
    main()

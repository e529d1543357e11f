# SPDX-License-Identifier: Apache-2.0
"""How often a target that was away is found again, on scenes stitched from annotated sequences.

    dev/run python -m tools.benchmarks.redetection SEQUENCES --models ostrack_tiny

Each scene shows a sequence, then cuts to the frames of others for some seconds, then goes back:
moved, so that the target is elsewhere, at another scale, and over a picture of another sequence.
Half of the scenes never go back. *Found* counts returns after which the state is TRACKING on the
target within two seconds. *False finds* are scenes in
which a LOST target becomes TRACKING where it is not. *TRACKING while away* is the share of the
frames without the target in which the state is TRACKING, whether it had been LOST or not.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from tracker_ros.evaluation.sequences import AnnotatedSequence, find_sequences
from tracker_ros.following.follower import Follower
from tracker_ros.following.frames import number_frames
from tracker_ros.following.redetection import RedetectionSettings
from tracker_ros.following.selection import Selection
from tracker_ros.following.target_set import TargetSet
from tracker_ros.following.target_state import TargetState
from tracker_ros.geometry import iou
from tracker_ros.registry import create_tracker
from tracker_ros.tracker import Tracker

FPS = 30.0
SHOWN, AWAY, BACK = 30, 75, 90
SIZE = (480, 360)
SCALES = (0.75, 1.0, 1.3)
ABSENT = np.full(4, np.nan)
ORIGIN = np.zeros(2)
OVERLAP = 0.3
FOUND_WITHIN_S = 2.0


@dataclass(frozen=True)
class SceneFrame:
    """A frame of a scene: RGB uint8 (H, W, 3), and the target's box (4,), NaN where it is away."""

    image: np.ndarray
    box: np.ndarray


@dataclass
class Tally:
    """What became of the scenes."""

    returns: int = 0
    found: int = 0
    false_finds: int = 0
    scenes: int = 0
    away: int = 0
    tracking_away: int = 0
    frames: int = 0
    seconds: float = 0.0


def stitched_scene(
    target: AnnotatedSequence, others: list[AnnotatedSequence], seed: int, returns: bool
) -> Iterator[SceneFrame]:
    """Yield the frames of a scene."""
    generator = np.random.default_rng(seed)
    start = min(SHOWN, len(target) // 2)
    for index in range(start):
        yield placed(target.image(index), target.boxes[index])
    gap = [others[i] for i in generator.permutation(len(others))[:3]]
    for index in range(AWAY):
        other = gap[index * len(gap) // AWAY]
        image = other.image(index % len(other))
        yield SceneFrame(placed(image, ABSENT).image, ABSENT)
    if not returns:
        return
    scale = float(generator.choice(SCALES))
    behind = cv2.resize(gap[0].image(0), SIZE, interpolation=cv2.INTER_AREA)
    shown = [min(start + count, len(target) - 1) for count in range(BACK)]
    fit = [placed(target.image(i), target.boxes[i], scale).box for i in {shown[0], shown[-1]}]
    corners = np.array([[box[:2], box[:2] + box[2:]] for box in fit])
    shift = generator.uniform(-corners[:, 0].min(0), np.array(SIZE) - corners[:, 1].max(0))
    for index in shown:
        yield placed(target.image(index), target.boxes[index], scale, shift, behind)


def placed(
    image: np.ndarray,
    box: np.ndarray,
    scale: float = 1.0,
    shift: np.ndarray = ORIGIN,
    behind: np.ndarray | None = None,
) -> SceneFrame:
    """Fit an image and its box into the scene's size, scale and shift both, over another image.

    The box is cut at the edges, and NaN while less than half of it is seen.
    """
    size = np.array(SIZE, np.float64)
    fit = scale * size / image.shape[1::-1]
    matrix = np.array([[fit[0], 0.0, shift[0]], [0.0, fit[1], shift[1]]])
    canvas = np.zeros((SIZE[1], SIZE[0], 3), np.uint8) if behind is None else behind.copy()
    cv2.warpAffine(
        image, matrix, SIZE, canvas, flags=cv2.INTER_AREA, borderMode=cv2.BORDER_TRANSPARENT
    )
    low = box[:2] * fit + shift
    high = low + box[2:] * fit
    cut = np.clip(high, 0, size) - np.clip(low, 0, size)
    if not np.prod(cut) >= 0.5 * np.prod(high - low):
        return SceneFrame(canvas, ABSENT)
    return SceneFrame(canvas, np.concatenate([np.clip(low, 0, size), cut]))


def play(
    tracker: Tracker, scene: list[SceneFrame], settings: RedetectionSettings | None, tally: Tally
) -> None:
    """Follow the target through a scene and count what became of it."""
    follower = Follower[np.ndarray](
        lambda image: image, TargetSet(tracker=tracker, redetection=settings)
    )
    frames = number_frames((frame.image for frame in scene), FPS)
    first = tuple(float(value) for value in scene[0].box)
    before, since_return, found, false_find = TargetState.TRACKING, 0, False, False
    gone = False
    for report, frame in zip(follower.follow(Selection(first), frames), scene, strict=True):
        state, result = report.first.state, report.first.result
        assert result is not None
        present = bool(np.isfinite(frame.box).all())
        tracking = state is TargetState.TRACKING
        right = present and iou(result.box, tuple(frame.box)) > OVERLAP
        false_find |= tracking and not right and before is TargetState.LOST
        gone |= not present
        since_return += gone and (present or since_return > 0)
        found |= tracking and right and 0 < since_return <= FOUND_WITHIN_S * FPS
        tally.away += not present
        tally.tracking_away += tracking and not present
        before = state
    tally.scenes += 1
    tally.returns += since_return > 0
    tally.found += found
    tally.false_finds += false_find
    tally.frames += len(scene)
    tally.seconds += follower.tracking_seconds


def main() -> None:
    """Print a row of a Markdown table for each model, with and without looking elsewhere."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sequences", type=Path)
    parser.add_argument("--models", nargs="+", default=["ostrack_tiny"])
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--scenes", type=int, default=4, help="per sequence (default: 4)")
    arguments = parser.parse_args()
    sequences = find_sequences(arguments.sequences)
    print(
        "| Model | Looks elsewhere | Found again within 2 s | False finds | "
        "TRACKING while away | ms per frame |"
    )
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    for model in arguments.models:
        tracker = create_tracker(model, backend=arguments.backend)
        for settings in (None, RedetectionSettings()):
            tally = Tally()
            for place, target in enumerate(sequences):
                others = sequences[:place] + sequences[place + 1 :]
                for count in range(arguments.scenes):
                    seed = 1000 * place + count
                    scene = list(stitched_scene(target, others, seed, returns=count % 2 == 0))
                    play(tracker, scene, settings, tally)
            print(
                f"| {model} | {'no' if settings is None else 'yes'} "
                f"| {tally.found} of {tally.returns} | {tally.false_finds} of {tally.scenes} "
                f"| {tally.tracking_away / tally.away:.1%} "
                f"| {1e3 * tally.seconds / tally.frames:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()

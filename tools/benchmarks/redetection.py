# SPDX-License-Identifier: Apache-2.0
"""How often a target that was away is found again, on scenes stitched from annotated sequences.

    dev/run python -m tools.benchmarks.redetection SEQUENCES --models ostrack_tiny

Each scene shows a sequence, then cuts to the frames of others for some seconds, then goes back:
moved, so that the target is elsewhere, and at another scale. Half of the scenes never go back.
*Found* counts scenes in which the state is TRACKING on the target within two seconds of the
return. *False finds* are cuts during which, or returns after which, something else was TRACKING
after the target had been LOST, as a share of all scenes.
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
    seconds: float = 0.0


def stitched_scene(
    target: AnnotatedSequence, others: list[AnnotatedSequence], seed: int, returns: bool
) -> Iterator[SceneFrame]:
    """Yield the frames of a scene."""
    generator = np.random.default_rng(seed)
    away = np.full(4, np.nan)
    for index in range(min(SHOWN, len(target) // 2)):
        yield placed(target.image(index), target.boxes[index], 1.0, np.zeros(2))
    gap = [others[i] for i in generator.permutation(len(others))[:3]]
    for index in range(AWAY):
        other = gap[index * len(gap) // AWAY]
        image = other.image(index % len(other))
        yield SceneFrame(placed(image, away, 1.0, np.zeros(2)).image, away)
    if not returns:
        return
    scale = float(generator.choice(SCALES))
    start = min(SHOWN, len(target) // 2)
    first = placed(target.image(start), target.boxes[start], scale, np.zeros(2)).box
    goal = generator.uniform([0.1, 0.1], [0.9, 0.9]) * np.array(SIZE)
    goal = np.clip(goal, first[2:] / 2, np.array(SIZE) - first[2:] / 2)
    shift = goal - first[:2] - first[2:] / 2
    for count in range(BACK):
        index = min(start + count % max(1, len(target) - start), len(target) - 1)
        yield placed(target.image(index), target.boxes[index], scale, shift)


def placed(image: np.ndarray, box: np.ndarray, scale: float, shift: np.ndarray) -> SceneFrame:
    """Fit an image and its box into the scene's size, then scale and shift both; edges mirror."""
    width, height = SIZE
    fit = scale * np.array([width / image.shape[1], height / image.shape[0]])
    matrix = np.array([[fit[0], 0.0, shift[0]], [0.0, fit[1], shift[1]]])
    warped = cv2.warpAffine(
        image, matrix, SIZE, flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REFLECT_101
    )
    return SceneFrame(warped, np.concatenate([box[:2] * fit + shift, box[2:] * fit]))


def play(
    tracker: Tracker, scene: list[SceneFrame], settings: RedetectionSettings | None, tally: Tally
) -> None:
    """Follow the target through a scene and count what became of it."""
    follower = Follower[np.ndarray](
        lambda image: image, TargetSet(tracker=tracker, redetection=settings)
    )
    frames = number_frames((frame.image for frame in scene), FPS)
    first = tuple(float(value) for value in scene[0].box)
    lost, false_find, back, found = False, False, 0, False
    for report, frame in zip(follower.follow(Selection(first), frames), scene, strict=True):
        state, result = report.first.state, report.first.result
        assert result is not None
        present = np.isfinite(frame.box).all()
        right = present and iou(result.box, tuple(frame.box)) > 0.3
        lost = lost or state is TargetState.LOST
        if lost and state is TargetState.TRACKING:
            if not right:
                false_find = True
            elif back < 2.0 * FPS:
                found = True
        back += int(present and lost)
    returns = bool(np.isfinite(scene[-1].box).all())
    tally.scenes += 1
    tally.returns += returns
    tally.found += returns and found
    tally.false_finds += false_find
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
    print("| Model | Looks elsewhere | Found again within 2 s | False finds | ms per frame |")
    print("| --- | --- | ---: | ---: | ---: |")
    for model in arguments.models:
        tracker = create_tracker(model, backend=arguments.backend)
        for settings in (None, RedetectionSettings()):
            tally, frames = Tally(), 0
            for place, target in enumerate(sequences):
                others = sequences[:place] + sequences[place + 1 :]
                for count in range(arguments.scenes):
                    seed = 1000 * place + count
                    scene = list(stitched_scene(target, others, seed, returns=count % 2 == 0))
                    play(tracker, scene, settings, tally)
                    frames += len(scene)
            print(
                f"| {model} | {'no' if settings is None else 'yes'} "
                f"| {tally.found} of {tally.returns} | {tally.false_finds} of {tally.scenes} "
                f"| {1e3 * tally.seconds / frames:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()

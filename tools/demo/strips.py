# SPDX-License-Identifier: Apache-2.0
"""Draw docs/media/strips.webp: a target that turns, one that is hidden, one that comes back.

    dev/run python -m tools.demo.strips

Each row shows frames of one run: the demo's pedestrian, who turns twice; a drawn scene in which
something passes in front of the target; and the demo's footage through a camera that looks away
and back to another place. The box is drawn in the colour of the state.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np

from tools.demo.footage import lost_scene, street_scene
from tracker_ros.cache import cache_folder
from tracker_ros.drawing.overlay import DrawnTarget, draw_targets
from tracker_ros.following.redetection import RedetectionSettings
from tracker_ros.geometry import Box
from tracker_ros.synthetic.scene_video import SceneConfig, synthetic_video
from tracker_ros.video_tracking import track_video

TILE = (256, 216)
HIDDEN_SEED, HIDDEN_FRAMES, HIDDEN_SIZE = 1, 110, (320, 270)
HIDDEN = SceneConfig(target_side=0.16, occluders=4, distractors=2)


def strip(
    title: str,
    source: str | Iterable[np.ndarray],
    box: Box,
    shown: Sequence[int],
    fps: float | None = None,
) -> np.ndarray:
    """Return a row of pictures: some frames of a run, numbers of which are given."""
    tiles = []
    for result in track_video(source, box, fps=fps, redetection=RedetectionSettings()):
        if result.index in shown:
            target = DrawnTarget(result.result, "", "", result.state)
            tile = cv2.resize(draw_targets(result.image, [target]), TILE)
            text = f"{title}  {result.time:.1f} s  {result.state.name.lower()} {result.score:.2f}"
            tile[-20:] = (tile[-20:] * 0.3).astype(np.uint8)
            cv2.putText(
                tile, text, (5, TILE[1] - 6), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (255,) * 3, 1,
                cv2.LINE_AA,
            )  # fmt: skip
            tiles.append(tile)
        if result.index == max(shown):
            break
    return np.hstack(tiles)


def around_the_least(visible: Sequence[float]) -> list[int]:
    """Return frames before, while and after least of the target is visible."""
    middle = int(np.argmin(visible[20:-20])) + 20
    return [middle + step for step in (-18, -8, -2, 2, 8, 18)]


def main() -> None:
    """Draw the picture."""
    cache = cache_folder("demo")
    street, lost = street_scene(cache), lost_scene(cache)
    scene = list(synthetic_video(HIDDEN_SEED, HIDDEN_FRAMES, HIDDEN_SIZE, HIDDEN))
    images, visible = [frame.image for frame in scene], [frame.visibility for frame in scene]
    rows = [
        strip("turns", street.source, street.first_box, (0, 30, 44, 60, 100, 140)),
        strip("hidden", images, scene[0].box, around_the_least(visible), fps=30.0),
        strip("elsewhere", lost.source, lost.first_box, (0, 20, 28, 40, 58, 100)),
    ]
    picture = np.vstack(rows)
    quality = [cv2.IMWRITE_WEBP_QUALITY, 80]
    cv2.imwrite(str(Path("docs/media/strips.webp")), picture[..., ::-1], quality)


if __name__ == "__main__":
    main()

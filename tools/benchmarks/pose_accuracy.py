# SPDX-License-Identifier: Apache-2.0
"""Measure bearing and distance against the truth of a drawn RGB-D scene.

    dev/run python -m tools.benchmarks.pose_accuracy

With the true boxes, the errors are those of camera geometry and depth alone. With those of a
tracker they contain its own; `filtered` are the same boxes after the constant-velocity filter. The
last columns tell what kind of error the boxes have: the mean offset of their centres to the right
and downward, and how much an offset is like that of the frame before (correlation, 0 for jitter).
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np

from tools.benchmarks.rows import Row, publish
from tools.demo.rgbd_scene import RgbdFrame, RgbdScene
from tracker_ros.geometry import Box
from tracker_ros.spatial.depth import target_depth, target_region
from tracker_ros.spatial.target_locator import (
    Distance,
    TargetLocator,
    distance_by_depth,
    distance_by_size,
)

RATE_HZ = 15.0
COLUMNS = (
    "boxes", "distance", "frames", "located", "distance_p50_percent", "distance_p95_percent",
    "bearing_p50_px", "bearing_p95_px", "mean_right_px", "mean_down_px", "persistence",
)  # fmt: skip


def measure(
    scene: RgbdScene, frames: list[RgbdFrame], boxes: list[Box], size_m: float = 0.0
) -> dict[str, float]:
    """Return the errors of boxes in frames of a scene.

    Args:
        scene: The scene.
        frames: Its frames at `RATE_HZ`.
        boxes: The target's box in each.
        size_m: If given, distances follow from this size of the longer side instead of from depth.
    """
    locator, distances, bearings = TargetLocator(), [], []
    offsets = box_centres(boxes) - box_centres([frame.box for frame in frames])
    for index, (frame, box) in enumerate(zip(frames, boxes, strict=True)):
        time_s = index / RATE_HZ
        locator.observe_box(time_s, box)
        direction = locator.direction(scene.camera, time_s, box)
        assert direction is not None
        metres = float(np.linalg.norm(frame.point))
        angle = math.acos(min(1.0, float(direction.bearing @ frame.point) / metres))
        bearings.append(angle / scene.camera.radians_per_pixel)
        found: Distance | None
        if size_m:
            found = distance_by_size(direction, size_m)
        else:
            known = locator.range_at(time_s)
            expected = None if known is None else float(known.position[0] * direction.bearing[2])
            height, width = frame.depth_mm.shape
            region = target_region(box, width, height)
            if region is None:
                continue
            left, top, right, bottom = region
            part = frame.depth_mm[top:bottom, left:right].astype(np.float32) / 1000
            estimate = target_depth(part, None, expected)
            if estimate is None:
                continue
            found = distance_by_depth(direction.bearing, estimate)
        if found is not None:
            locator.observe_distance(time_s, found)
            distances.append(100 * abs(found.metres / metres - 1))
    return {
        "frames": len(frames),
        "located": len(distances),
        "distance_p50_percent": float(np.median(distances)),
        "distance_p95_percent": float(np.percentile(distances, 95)),
        "bearing_p50_px": float(np.median(bearings)),
        "bearing_p95_px": float(np.percentile(bearings, 95)),
        "mean_right_px": float(offsets[:, 0].mean()),
        "mean_down_px": float(offsets[:, 1].mean()),
        "persistence": persistence(offsets),
    }


def box_centres(boxes: list[Box]) -> np.ndarray:
    """Return the centres (N, 2) of boxes, pixels."""
    corners_and_sides = np.array(boxes)
    return np.asarray(corners_and_sides[:, :2] + corners_and_sides[:, 2:] / 2)


def persistence(offsets: np.ndarray) -> float:
    """Return the correlation of offsets (N, 2) with those one frame later, 0 if they are all 0."""
    centred = offsets - offsets.mean(axis=0)
    power = float((centred**2).sum())
    return float((centred[1:] * centred[:-1]).sum()) / power if power > 1e-12 else 0.0


def filtered(boxes: list[Box]) -> list[Box]:
    """Return boxes as the constant-velocity filter of a target sees them, at `RATE_HZ`."""
    locator, found = TargetLocator(), []
    for index, box in enumerate(boxes):
        locator.observe_box(index / RATE_HZ, box)
        found.append(locator.box_at(index / RATE_HZ) or box)
    return found


def tracked_boxes(frames: list[RgbdFrame], model: str) -> list[Box]:
    """Return the boxes of a tracker that starts on the first frame."""
    from tracker_ros import create_tracker

    tracker = create_tracker(model)
    tracker.initialize(frames[0].image, frames[0].box)
    return [frames[0].box, *(tracker.track(frame.image).box for frame in frames[1:])]


def main() -> None:
    """Print the table; with `--json`, write the rows too."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="ostrack_tiny", help="tracker (%(default)s)")
    parser.add_argument("--seconds", type=float, default=20.0, help="of the scene (%(default)s)")
    parser.add_argument("--json", type=Path, help="write the rows here too")
    run = parser.parse_args()
    scene = RgbdScene()
    frames = [scene.frame(index / RATE_HZ) for index in range(round(run.seconds * RATE_HZ))]
    tracked = tracked_boxes(frames, run.model)
    boxes = {
        "true": [frame.box for frame in frames],
        run.model: tracked,
        f"{run.model}, filtered": filtered(tracked),
    }
    rows: list[Row] = []
    for name, found in boxes.items():
        for kind, size_m in (("by depth", 0.0), ("by a size of 1.3 m", 1.3)):
            rows.append({"boxes": name, "distance": kind, **measure(scene, frames, found, size_m)})
    publish(rows, COLUMNS, 2, run.json)


if __name__ == "__main__":
    main()

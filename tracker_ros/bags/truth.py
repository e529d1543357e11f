# SPDX-License-Identifier: Apache-2.0
"""Where the target truly is in a bag's images: from a topic of detections, or from a text file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tracker_ros.bags.requests import DETECTION, DETECTIONS
from tracker_ros.following.selection_messages import box_of
from tracker_ros.geometry import Box
from tracker_ros.io.bag_reader import BagReader, find_topic
from tracker_ros.io.image_messages import nanoseconds

_TOLERANCE_NS = 20_000_000


def truth_of_topic(reader: BagReader, topic: str, target_id: str = "") -> dict[int, Box | None]:
    """Return the true box by stamp, nanoseconds; None where the target is said to be absent.

    An array of detections without the target says that it is absent; a single Detection2D says
    where it is seen. An empty id takes the detections of any id, one for each image. Raises
    ValueError if there is no such topic, or an image has several detections and no id was given.
    """
    topic = find_topic(reader, topic, (DETECTION, DETECTIONS), "truth")
    truth: dict[int, Box | None] = {}
    for _, _, data in reader.messages([topic]):
        message = reader.deserialize(topic, data)
        several = hasattr(message, "detections")
        detections = message.detections if several else [message]
        found = [one for one in detections if not target_id or one.id == target_id]
        if len(found) > 1:
            ids = ", ".join(sorted({one.id for one in found}))
            raise ValueError(
                f"topic {topic} has {len(found)} detections for one image; give the id of the "
                f"target with --truth-id, one of: {ids}"
            )
        header = message.header if several or not found else found[0].header
        truth[nanoseconds(header.stamp)] = box_of(found[0].bbox) if found else None
    if not truth:
        raise ValueError(f"topic {topic} of {str(reader.path)!r} has no messages")
    return truth


def truth_of_file(path: Path) -> dict[int, Box | None]:
    """Return the true box by the number of the image, from a text file.

    Each line is ``x, y, w, h`` of the next image, pixels; ``nan`` where the target is absent.
    Raises ValueError, which names file and line, if a line is something else.
    """
    truth: dict[int, Box | None] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines()):
        parts = line.replace(",", " ").replace(";", " ").split()
        try:
            values = [float(part) for part in parts]
        except ValueError:
            values = []
        if parts and len(values) != 4:
            raise ValueError(
                f"{path}, line {number + 1} is {line[:60]!r}; expected x, y, w, h of an image"
            )
        absent = not values or not np.isfinite(values).all()
        truth[number] = None if absent else (values[0], values[1], values[2], values[3])
    if not truth:
        raise ValueError(f"{path} is empty; expected a line x, y, w, h for each image")
    return truth


def match_truth(
    truth: Mapping[int, Box | None], keys: Sequence[int], tolerance: int = _TOLERANCE_NS
) -> tuple[np.ndarray, np.ndarray]:
    """Return the truth of some images: boxes (N, 4), NaN without one, and whether it is known.

    The keys are the images' stamps, which may differ by the tolerance, or their numbers.
    """
    stamps = np.array(sorted(truth), np.int64)
    boxes, known = np.full((len(keys), 4), np.nan), np.zeros(len(keys), bool)
    for place, key in enumerate(keys):
        after = int(np.searchsorted(stamps, key))
        near = [int(stamps[i]) for i in (after - 1, after) if 0 <= i < len(stamps)]
        best = min(near, key=lambda stamp: abs(stamp - key))
        if abs(best - key) <= tolerance:
            known[place] = True
            box = truth[best]
            if box is not None:
                boxes[place] = box
    return boxes, known

# SPDX-License-Identifier: Apache-2.0
"""What is drawn over a camera's images in Foxglove: the content of ``foxglove_msgs``.

A function returns nested dictionaries of a message's fields, which the node and the writer of bags
turn into messages of their own kinds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tracker_ros.drawing.overlay import target_colour
from tracker_ros.drawing.text import RGB
from tracker_ros.following.frames import TargetReport
from tracker_ros.following.target_state import VISIBLE, TargetState

_LINE_LOOP = 2
_THICKNESS, _FONT = 2.0, 14.0


def image_annotations(stamp_ns: int, targets: Sequence[TargetReport]) -> dict[str, Any]:
    """Return ``foxglove_msgs/ImageAnnotations``: boxes and tags of visible targets."""
    sec, nanosec = divmod(stamp_ns, 1_000_000_000)
    stamp = {"sec": sec, "nanosec": nanosec}
    points, texts = [], []
    for target in targets:
        if target.result is None or target.state not in VISIBLE:
            continue
        x, y, w, h = (float(value) for value in target.result.box)
        colour = _colour(target_colour(target.state, target.target_id, len(targets) > 1))
        corners = ((x, y), (x + w, y), (x + w, y + h), (x, y + h))
        points.append(
            {
                "timestamp": stamp,
                "type": _LINE_LOOP,
                "points": [{"x": px, "y": py} for px, py in corners],
                "outline_color": colour,
                "thickness": _THICKNESS,
            }
        )
        doubt = "" if target.state is TargetState.TRACKING else target.state.name.lower()
        parts = (f"#{target.target_id}", target.label, f"{target.score:.2f}", doubt)
        texts.append(
            {
                "timestamp": stamp,
                "position": {"x": x, "y": y},
                "text": " ".join(filter(None, parts)),
                "font_size": _FONT,
                "text_color": _colour((255, 255, 255)),
                "background_color": _colour((0, 0, 0), 0.6),
            }
        )
    return {"points": points, "texts": texts}


def _colour(rgb: RGB, alpha: float = 1.0) -> dict[str, float]:
    r, g, b = (value / 255 for value in rgb)
    return {"r": r, "g": g, "b": b, "a": alpha}

# SPDX-License-Identifier: Apache-2.0
"""Follow one thing in a video stream, with or without ROS 2.

`import tracker_ros` is light: it loads neither torch, OpenCV nor rclpy, and changes neither the
environment nor threads. What needs them is imported on first use::

    from tracker_ros import create_tracker, track_video

    tracker = create_tracker("ostrack_tiny")
    tracker.initialize(image, (x, y, w, h))
    result = tracker.track(next_image)

or, for a whole video::

    for result in track_video("clip.mp4", (x, y, w, h)):
        print(result.index, result.time, result.box, result.score)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

DEFAULT_MODEL = "ostrack_tiny"
"""The most accurate of the embedded models; docs/accuracy.md has the measurement."""

_EXPORTS = {
    "Verdict": "tracker_ros.tracker",
    "ModelCard": "tracker_ros.model_cards",
    "TrackResult": "tracker_ros.tracker",
    "Tracker": "tracker_ros.tracker",
    "create_tracker": "tracker_ros.registry",
    "model_card": "tracker_ros.registry",
    "list_models": "tracker_ros.registry",
    "VideoResult": "tracker_ros.video_tracking",
    "track_video": "tracker_ros.video_tracking",
}

__all__ = [
    "Verdict",
    "ModelCard",
    "TrackResult",
    "Tracker",
    "create_tracker",
    "model_card",
    "list_models",
    "VideoResult",
    "track_video",
]

if TYPE_CHECKING:
    from tracker_ros.model_cards import ModelCard
    from tracker_ros.registry import create_tracker, list_models, model_card
    from tracker_ros.tracker import Tracker, TrackResult, Verdict
    from tracker_ros.video_tracking import VideoResult, track_video


def __getattr__(name: str) -> Any:
    """Import a public name from the module that defines it, on first use (PEP 562)."""
    if name not in _EXPORTS:
        raise AttributeError(f"module 'tracker_ros' has no attribute {name!r}")
    value = getattr(importlib.import_module(_EXPORTS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_EXPORTS])

# SPDX-License-Identifier: Apache-2.0
"""Run classic trackers of OpenCV's contributed modules behind the package's own interface.

They are baselines to compare with: CSRT (Lukezic et al., CVPR 2017), KCF (Henriques et al.,
TPAMI 2015) and MIL (Babenko et al., CVPR 2009), with OpenCV's default parameters. They need
``opencv-contrib-python``. MIL draws samples from a generator that OpenCV seeds by the clock and
does not expose, so its answers differ a little from run to run; CSRT's and KCF's do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from tracker_ros.geometry import Box, check_box, clip_box
from tracker_ros.tracker import Tracker, TrackResult, Verdict, check_image

_CLASSES = {"csrt": "TrackerCSRT", "kcf": "TrackerKCF", "mil": "TrackerMIL"}

BASELINES = tuple(_CLASSES)
"""Names that `OpenCvTracker` knows."""


class OpenCvTracker(Tracker):
    """One of OpenCV's trackers, named as in `BASELINES`.

    OpenCV gives no confidence: the score is 1 while the tracker reports success. When it reports
    that it has lost the target, the score is 0 and the last box is repeated. Raises ValueError for
    an unknown name, RuntimeError if this OpenCV was built without the tracker.
    """

    def __init__(self, name: str) -> None:
        if name not in _CLASSES:
            raise ValueError(f"baseline {name!r} is unknown; expected one of {BASELINES}")
        self.name = name
        self._class = _find_class(_CLASSES[name])
        self._tracker: Any = None
        self._box: Box = (0.0, 0.0, 0.0, 0.0)

    def initialize(self, image: np.ndarray, box: Sequence[float]) -> None:
        """Start on `box`, clipped to the image and in whole pixels. See `Tracker`.

        OpenCV's trackers treat a box that reaches beyond the image differently: MIL raises, KCF
        clips it. Here all get the same box, of at least two pixels.
        """
        height, width = check_image(image).shape[:2]
        self._box = check_box(box, height, width)
        whole = [float(round(value)) for value in self._box]
        inside = tuple(int(value) for value in clip_box(whole, height, width, margin=2.0))
        tracker = self._class.create()
        try:
            tracker.init(cv2.cvtColor(image, cv2.COLOR_RGB2BGR), inside)
        except cv2.error as error:
            raise RuntimeError(f"{self.name} cannot start on {inside}: {_cause(error)}") from error
        self._tracker = tracker

    def track(self, image: np.ndarray) -> TrackResult:
        """Find the target in the next image. See `Tracker`."""
        if self._tracker is None:
            raise RuntimeError(f"{self.name} has no target; call initialize(image, box) first")
        picture = cv2.cvtColor(check_image(image), cv2.COLOR_RGB2BGR)
        try:
            found, box = self._tracker.update(picture)
        except cv2.error as error:
            raise RuntimeError(f"{self.name} failed: {_cause(error)}") from error
        if found:
            x, y, w, h = (float(value) for value in box)
            self._box = (x, y, w, h)
        return TrackResult(
            box=self._box,
            score=1.0 if found else 0.0,
            score_map=None,
            search_region=self._box,
            verdict=Verdict.NORMAL if found else Verdict.NOT_FOUND,
        )

    def warm_up(self) -> None:
        """Do nothing: OpenCV's trackers need no preparation."""

    @property
    def runtime_info(self) -> dict[str, str]:
        """Back end, device and precision."""
        return {"backend": "opencv", "device": "cpu", "precision": "fp32"}


def _cause(error: cv2.error) -> str:
    """Return OpenCV's message in one line."""
    return " ".join(str(error).split())


def _find_class(name: str) -> Any:
    """Return OpenCV's tracker class: a top-level one, or of ``legacy`` in some versions."""
    for module in (cv2, getattr(cv2, "legacy", None)):
        if hasattr(module, name):
            return getattr(module, name)
    raise RuntimeError(
        f"OpenCV {cv2.__version__} has no {name}; install opencv-contrib-python-headless "
        "in place of opencv-python"
    )

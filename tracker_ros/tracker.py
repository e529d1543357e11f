# SPDX-License-Identifier: Apache-2.0
"""What every tracker is: initialise on a box, then answer one result per image.

Boxes are `(x, y, w, h)` in pixels of the full image, measured from its top-left corner. Images are
RGB `uint8` arrays of shape (H, W, 3).
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

from tracker_ros.geometry import Box, tight_box


class Verdict(str, Enum):
    """What the tracker itself thinks of one frame (the vocabulary of DiMP and TrDiMP)."""

    NORMAL = "normal"
    HARD_NEGATIVE = "hard_negative"
    UNCERTAIN = "uncertain"
    NOT_FOUND = "not_found"


@dataclass(frozen=True)
class TrackResult:
    """Where the target is in one image.

    Attributes:
        box: `(x, y, w, h)`, pixels of the full image.
        score: Confidence in [0, 1].
        score_map: (rows, columns) float32 response in [0, 1] over `search_region`, or None.
        search_region: `(x, y, w, h)` in image pixels that `score_map` covers; it may reach beyond
            the image.
        mask: (H, W) bool, for trackers that segment; else None.
        verdict: The tracker's own judgement of this frame; None where it leaves that to the score.
        token_mask: (layers, n, n) bool over `search_region`, rows from top to bottom; None unless
            `Tracker.explain` is set and the model and its back end can tell. GRM: which search
            tokens were compared with the template, for every layer that decides on it. OSTrack
            with candidate elimination: which were kept, for every layer that eliminates some.
    """

    box: Box
    score: float
    score_map: np.ndarray | None
    search_region: Box
    mask: np.ndarray | None = None
    verdict: Verdict | None = None
    token_mask: np.ndarray | None = None


class Tracker(ABC):
    """Follows one target through a sequence of images.

    Attributes:
        usual_size: Height and width of an image that it is prepared for.
        explain: Set it to True to have results carry a `token_mask`.
    """

    usual_size: tuple[int, int] = (480, 640)
    explain: bool = False

    @abstractmethod
    def initialize(self, image: np.ndarray, box: Sequence[float]) -> None:
        """Start on `box` in `image`, forgetting any earlier target.

        Args:
            image: RGB uint8 (H, W, 3).
            box: `(x, y, w, h)` in pixels, overlapping the image.

        Raises:
            ValueError: The image or the box is unusable; the message names the value and the
                remedy, and the earlier target is kept.
            RuntimeError: What the network made of them is unusable; the earlier target is kept.
        """

    def initialize_mask(self, image: np.ndarray, mask: np.ndarray) -> None:
        """Start on the pixels of a mask; a tracker that follows boxes starts on the box around it.

        Args:
            image: RGB uint8 (H, W, 3).
            mask: (H, W) bool, not empty.

        Raises:
            ValueError: As for `initialize`, and for a mask of another shape or without a pixel.
            RuntimeError: As for `initialize`.
        """
        height, width = check_image(image).shape[:2]
        if mask.shape != (height, width):
            raise ValueError(
                f"mask has shape {mask.shape}; expected {(height, width)}, as the image"
            )
        if not mask.any():
            raise ValueError("mask has no pixel set; expected True on the target")
        self.initialize(image, tight_box(mask))

    @abstractmethod
    def track(self, image: np.ndarray) -> TrackResult:
        """Find the target in the next image, RGB uint8 (H, W, 3).

        Raises:
            RuntimeError: `initialize` has not been called.
            ValueError: The image is unusable; the target is kept.
        """

    def fork(self) -> Tracker:
        """A tracker for a further target, with the same network; initialise it before its use.

        Nothing else is shared: what is known of a target is replaced by `initialize`, not changed.
        """
        return copy.copy(self)

    def track_batch(
        self, others: Sequence[Tracker], image: np.ndarray
    ) -> list[TrackResult | Exception]:
        """Find several targets in the next image.

        A family overrides this where work that is common to all of them can be done once.

        Args:
            others: The other targets' trackers, made by `fork`.
            image: RGB uint8 (H, W, 3).

        Returns:
            The result of each, this tracker's first; where one failed, what its `track` raised.
        """
        return [_outcome(tracker, image) for tracker in (self, *others)]

    def update_model(self) -> None:  # noqa: B027 - most trackers learn nothing on the way
        """Do what the last frame left to do, as a rule updates of what is known of the target.

        Call it when the last result has been passed on, so that it need not wait for the updates.
        It changes no result: `track` and `warm_up` do what is left first.
        """

    @abstractmethod
    def warm_up(self) -> None:
        """Run one dummy initialise and track at the working sizes, then forget them.

        Call it before the first real frame: it pays for lazy allocation, kernel selection and
        graph capture. A target that is being followed is kept.
        """

    @property
    def runtime_info(self) -> dict[str, str]:
        """What computes: `backend`, `device` and `precision` in use, as far as they are known."""
        return {}


def _outcome(tracker: Tracker, image: np.ndarray) -> TrackResult | Exception:
    try:
        return tracker.track(image)
    except Exception as error:  # one target's failure is not the others'
        return error


def check_image(image: np.ndarray) -> np.ndarray:
    """Return `image` if it is RGB uint8 of shape (H, W, 3), H and W at least 2.

    Raises:
        ValueError: Naming what the image is instead, and how to convert it.
    """
    if not isinstance(image, np.ndarray):
        raise ValueError(
            f"image is a {type(image).__name__}; expected a NumPy array, RGB uint8 (H, W, 3)"
        )
    if image.dtype != np.uint8:
        raise ValueError(
            f"image has dtype {image.dtype}; expected uint8 in 0..255 "
            "(scale and convert with `.astype(np.uint8)`)"
        )
    if image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(
            f"image has shape {image.shape}; expected (H, W, 3), RGB "
            "(repeat a grey image three times along the last axis, drop an alpha channel)"
        )
    if min(image.shape[:2]) < 2:
        raise ValueError(f"image has shape {image.shape}; expected at least 2 x 2 pixels")
    return image

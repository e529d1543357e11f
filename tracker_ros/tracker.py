# SPDX-License-Identifier: Apache-2.0
"""The interface of every tracker: initialise on a box, then return one result per image.

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

from tracker_ros.calibration import Calibration
from tracker_ros.geometry import Box, tight_box
from tracker_ros.masks import label_map, one_object

_TILE = 8
_MIN_TILES = 8


class Verdict(str, Enum):
    """A tracker's own verdict on one frame, in the words of DiMP and TrDiMP."""

    NORMAL = "normal"
    HARD_NEGATIVE = "hard_negative"
    UNCERTAIN = "uncertain"
    NOT_FOUND = "not_found"


@dataclass(frozen=True)
class View:
    """A picture of what a tracker saw or computed, so that people can understand a failure.

    Attributes:
        title: What it shows, in a few words.
        image: (H, W, 3) uint8 RGB.
        heat: (rows, columns) float32 in [0, 1] spread over the picture; None for none.
        kept: (rows, columns) bool spread over it; what is False is darkened. None for none.
        boxes: Boxes `(x, y, w, h)` in pixels of the picture, each with a short text.
        points: Places `(x, y)` in pixels of the picture; equal numbers in views belong together.
    """

    title: str
    image: np.ndarray
    heat: np.ndarray | None = None
    kept: np.ndarray | None = None
    boxes: tuple[tuple[Box, str], ...] = ()
    points: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class TrackResult:
    """Where the target is in one image.

    Attributes:
        box: `(x, y, w, h)`, pixels of the full image.
        score: Confidence in [0, 1].
        score_map: (rows, columns) float32 response in [0, 1] over `search_region`, or None.
        search_region: `(x, y, w, h)` in image pixels that `score_map` covers; it may reach beyond
            the image.
        mask: (H, W) bool, the target's pixels; None for trackers that do not segment.
        verdict: The tracker's own verdict on this frame; None if only the score tells.
        token_mask: (layers, n, n) bool over `search_region`, rows from top to bottom. GRM: which
            search tokens were compared with the template, for every layer that decides on it.
            OSTrack with candidate elimination: which ones were kept, for every layer that
            eliminates some. None for other models and back ends, and unless `Tracker.explain`.
        views: Pictures of what the tracker saw and computed; none unless `Tracker.illustrate`.
    """

    box: Box
    score: float
    score_map: np.ndarray | None
    search_region: Box
    mask: np.ndarray | None = None
    verdict: Verdict | None = None
    token_mask: np.ndarray | None = None
    views: tuple[View, ...] = ()


class Tracker(ABC):
    """Follows one target through a sequence of images.

    Attributes:
        usual_size: Height and width of the images that `warm_up` prepares for.
        explain: True gives results a `token_mask`.
        illustrate: True gives results `views`; set it before `initialize`. It takes time.
        calibration: How likely its results are right, given the evidence; None if that was never
            measured.
    """

    usual_size: tuple[int, int] = (480, 640)
    explain: bool = False
    illustrate: bool = False
    calibration: Calibration | None = None

    @abstractmethod
    def initialize(self, image: np.ndarray, box: Sequence[float]) -> None:
        """Start on `box` in `image`, forgetting any earlier target.

        Args:
            image: RGB uint8 (H, W, 3).
            box: `(x, y, w, h)` in pixels, overlapping the image.

        Raises:
            ValueError: The image or the box cannot be used; the message names the value and the
                remedy, and the earlier target is kept.
            RuntimeError: The network's output cannot be used; the earlier target is kept.
        """

    def initialize_mask(self, image: np.ndarray, mask: np.ndarray) -> None:
        """Start on the pixels of a mask, or on the box around it if the tracker follows boxes.

        Args:
            image: RGB uint8 (H, W, 3).
            mask: (H, W) bool, not empty, or a picture of one object; see `tracker_ros.masks`.

        Raises:
            ValueError: As for `initialize`, or the mask has another shape, no pixel or several
                objects.
            RuntimeError: As for `initialize`.
        """
        height, width = check_image(image).shape[:2]
        if mask.shape != (height, width):
            raise ValueError(
                f"mask has shape {mask.shape}; expected {(height, width)}, as the image"
            )
        if not mask.any():
            raise ValueError("mask has no pixel set; expected True on the target")
        self.initialize(image, tight_box(one_object(label_map(mask))))

    @abstractmethod
    def track(self, image: np.ndarray) -> TrackResult:
        """Find the target in the next image, RGB uint8 (H, W, 3).

        Raises:
            RuntimeError: `initialize` has not been called.
            ValueError: The image cannot be used; the target is kept.
        """

    def search_around(self, box: Box) -> bool:
        """Search around this box in the next image, instead of around the last one.

        What the tracker knows of the target's look is kept. It learns nothing more from the last
        image.

        Args:
            box: `(x, y, w, h)`, pixels.

        Returns:
            False if the tracker searches whole images, so that there is nothing to choose.
        """
        return False

    def look_back(self, image: np.ndarray, box: Box) -> float | None:
        """Return how surely what a box shows now is found as the target in the first image.

        It is the tracker's task turned round: what merely resembles the target as a tracker sees
        it is seldom found that way, too. It takes the time of `initialize` and `track`, and
        nothing that the tracker knows changes.

        Args:
            image: RGB uint8 (H, W, 3).
            box: `(x, y, w, h)`, pixels.

        Returns:
            A score in [0, 1], 0 if something else is found there; None if the tracker cannot tell.
        """
        return None

    def fork(self) -> Tracker:
        """Return a tracker for another target, with the same network; initialise it before use.

        `initialize` replaces the state of a target and never changes it in place, so nothing else
        is shared.
        """
        return copy.copy(self)

    def join(self, others: Sequence[Tracker]) -> None:  # noqa: B027 - boxes may overlap
        """Let trackers that were started on masks of one image give each pixel to one target.

        Call it once, right after they were started. Trackers of boxes have nothing to share.

        Args:
            others: The other targets' trackers, made by `fork`.
        """

    def track_batch(
        self, others: Sequence[Tracker], image: np.ndarray
    ) -> list[TrackResult | Exception]:
        """Find several targets in the next image.

        A family overrides this if work that all targets have in common can be done once.

        Args:
            others: The other targets' trackers, made by `fork`.
            image: RGB uint8 (H, W, 3).

        Returns:
            The result of each tracker, this one's first; for a tracker that failed, the exception.
        """
        return [_outcome(tracker, image) for tracker in (self, *others)]

    @property
    def shares_passes(self) -> bool:
        """Whether `track_images` takes less time than tracking image by image."""
        return False

    def track_images(
        self, others: Sequence[Tracker], images: Sequence[np.ndarray]
    ) -> list[TrackResult | Exception]:
        """Find several targets, each in an image of its own, such as those of several cameras.

        Args:
            others: The other targets' trackers, made by `fork`.
            images: RGB uint8 (H, W, 3), for this tracker first; some may be the same object.

        Returns:
            As `track_batch`.
        """
        return [
            _outcome(tracker, image)
            for tracker, image in zip((self, *others), images, strict=True)
        ]

    def update_model(self) -> None:  # noqa: B027 - most trackers learn nothing on the way
        """Do the work that `track` left undone, such as updating the model of the target.

        Call it after passing on the last result, which then need not wait for the update. Calling
        it is optional; results are the same without it, because the next `track` begins with it.
        """

    @abstractmethod
    def warm_up(self) -> None:
        """Initialise and track once on a dummy image, so that the first real frame is not slow.

        It pays for lazy allocation, kernel selection and graph capture. A present target is kept.
        """

    def trim(self) -> None:  # noqa: B027 - most trackers have nothing to spare
        """Free what would be made again when needed, such as engines for several targets."""

    @property
    def runtime_info(self) -> dict[str, str]:
        """The `backend`, `device` and `precision` in use, as far as they are known."""
        return {}


def _outcome(tracker: Tracker, image: np.ndarray) -> TrackResult | Exception:
    try:
        return tracker.track(image)
    except Exception as error:  # one target's failure is not the others'
        return error


def check_image(image: np.ndarray) -> np.ndarray:
    """Return the image; raises ValueError unless it is RGB uint8 (H, W, 3), at least 2 x 2."""
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


def example_image(
    height: int, width: int, seed: int = 0, moved: tuple[int, int] = (0, 0)
) -> tuple[np.ndarray, Box]:
    """Draw a dim mosaic with a bright one in it, to time trackers and to check graphs.

    Equal arguments give equal images. `seed` decides colours, place and size; the bright mosaic is
    `moved` by pixels to the right and down. Returns RGB uint8 (height, width, 3), and the box of
    the bright mosaic, (x, y, w, h) in pixels.
    """
    generator = np.random.default_rng(seed)
    rows, columns = (max(_MIN_TILES, -(-side // _TILE)) for side in (height, width))
    scene = generator.integers(30, 110, (rows, columns, 3)).repeat(_TILE, 0).repeat(_TILE, 1)
    h, w = (int(tiles * generator.uniform(0.2, 0.3)) for tiles in (rows, columns))
    target = generator.integers(140, 256, (h, w, 3)).repeat(_TILE, 0).repeat(_TILE, 1)
    top, left = (
        _TILE * int(tiles * generator.uniform(0.3, 0.45)) + shift
        for tiles, shift in ((rows, moved[1]), (columns, moved[0]))
    )
    scene[top : top + _TILE * h, left : left + _TILE * w] = target
    box = (float(left), float(top), float(_TILE * w), float(_TILE * h))
    return scene[:height, :width].astype(np.uint8), box

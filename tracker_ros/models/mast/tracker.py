# SPDX-License-Identifier: Apache-2.0
"""MAST's loop: features of a frame, labels copied from the memory, mask, box.

Paper: Lai, Lu, Xie, CVPR 2020, section 3.3; see `network.py`. Several objects are followed at
once as labels of one map.

What differs on purpose: the features of a frame are computed once and kept, not again whenever it
is referred to; images may be reduced before, while masks come out at full size; labels carry as
many classes as there are objects (officially seven); images may change their size on the way;
`config.PropagationParameters` names the faults that are repaired.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, cast

import numpy as np

from tracker_ros.arrays import Array, inference, like, to_numpy
from tracker_ros.crops import in_order
from tracker_ros.geometry import Box, check_box, tight_box
from tracker_ros.models.mast.appearance import Appearance, Presence
from tracker_ros.models.mast.config import (
    START_SHAPES,
    STRIDE,
    PropagationParameters,
    check_choice,
    frames_to_keep,
    reference_frames,
)
from tracker_ros.models.mast.matched_places import matched_places, spread_over
from tracker_ros.models.mast.matching import (
    Reference,
    cell_labels,
    colourise,
    one_hot,
    spread_cells,
    strongest,
)
from tracker_ros.models.mast.start_mask import check_labels, mask_of_box
from tracker_ros.tracker import Tracker, TrackResult, Verdict, View, check_image

_MATCHES = 8
"""Cells of a target whose places in earlier frames are shown."""
_SMALLEST_SIDE, _LARGEST_SIDE, _MAX_ASPECT = 16, 2048, 16


class FeatureModel(Protocol):
    """A network that turns images into features."""

    @property
    def runtime_info(self) -> dict[str, str]:
        """Back end, device and precision in use."""

    def features(self, image: np.ndarray) -> Array:
        """(H, W, 3) uint8 RGB -> (1, C, ceil(H / 4), ceil(W / 4))."""


@dataclass
class _Memory:
    """What is known of the objects.

    Attributes:
        image_size: Height and width of the last image.
        working_size: To which all are reduced, whatever their size: that of the first one.
        boxes: Last box of each object.
        frame: Number of the last frame.
        kept: Features and one-hot labels of earlier frames, by their number.
        pictures: Those frames, reduced; empty unless they are to be shown.
        presence: Judges whether each object is still there.
    """

    image_size: tuple[int, int]
    working_size: tuple[int, int]
    boxes: list[Box]
    frame: int = 0
    kept: dict[int, tuple[Array, Array]] = field(default_factory=dict)
    pictures: dict[int, np.ndarray] = field(default_factory=dict)
    presence: list[Presence] = field(default_factory=list)

    @property
    def classes(self) -> int:
        """Number of objects, and one for the background."""
        return len(self.boxes) + 1

    def change_to(self, height: int, width: int) -> None:
        """Continue with images of another size, which show the same."""
        down, across = height / self.image_size[0], width / self.image_size[1]
        self.image_size = (height, width)
        self.boxes = [(x * across, y * down, w * across, h * down) for x, y, w, h in self.boxes]


class _Matching(NamedTuple):
    """A frame's features, what it was compared with, its picture and those of the references."""

    features: Array
    references: list[Reference]
    picture: np.ndarray
    earlier: dict[int, np.ndarray]


@dataclass(frozen=True)
class _Carried:
    """Labels carried to an image.

    Attributes:
        soft: (1, V, h, w) float32, by cell.
        pixels: (V, H, W) float32, the same by pixel.
        labels: (H, W) uint8, the strongest.
        map: The same as an array.
        matching: What was compared, if pictures of it are wanted.
    """

    soft: Array
    pixels: Array
    labels: Array
    map: np.ndarray
    matching: _Matching | None = None


class MASTTracker(Tracker):
    """Follows masks.

    Args:
        model: The network.
        parameters: How masks are carried on.
        working_size: Shorter side, in pixels, that larger images are reduced to; time and memory
            grow with its square.
        start_shape: What a box becomes: "ellipse" or "rectangle", filled, or "grabcut", which
            separates colours inside the box from those around it.
        aspect: Width over height of the images to be prepared for.

    Attributes:
        labels: (H, W) uint8 label map of the last image: 0 is background, 1 the target of the
            results, the others those that `initialize_mask` was given. None before the first.
    """

    labels: np.ndarray | None

    def __init__(
        self,
        model: FeatureModel,
        parameters: PropagationParameters,
        *,
        working_size: int = 480,
        start_shape: str = "grabcut",
        aspect: float = 4 / 3,
    ) -> None:
        check_choice("start_shape", start_shape, START_SHAPES)
        self.model = model
        self.parameters = parameters
        self.working_size = working_size
        self.start_shape = start_shape
        self.usual_size = usual_size(working_size, aspect)
        self.labels = None
        self._memory: _Memory | None = None
        self._object = 1

    def initialize(self, image: np.ndarray, box: Sequence[float]) -> None:
        """Start on the shape that stands for `box`; see `Tracker.initialize`."""
        check_image(image)
        start = check_box(box, image.shape[0], image.shape[1])
        mask = mask_of_box(image, start, self.start_shape).astype(np.uint8)
        self._start(image, mask, [start])

    def initialize_mask(self, image: np.ndarray, mask: np.ndarray) -> None:
        """Start on a mask, or on several objects at once; see `Tracker.initialize_mask`.

        The mask may hold integers: 0 for background, 1 for the target of the results, and so on
        without gaps.
        """
        check_image(image)
        labels = check_labels(mask, image.shape[0], image.shape[1])
        objects = range(1, int(labels.max()) + 1)
        self._start(image, labels, [tight_box(labels == label) for label in objects])

    @inference
    def _start(self, image: np.ndarray, labels: np.ndarray, boxes: list[Box]) -> None:
        height, width = image.shape[:2]
        working = self._working_size(height, width)
        picture = _resize(image, working)
        memory = _Memory((height, width), working, boxes)
        if self.illustrate:
            memory.pictures[0] = picture
        self._remember_start(self.model.features(picture), labels, memory)

    def _remember_start(self, features: Array, labels: np.ndarray, memory: _Memory) -> None:
        """Make a memory of labels (H, W) the one that is used; ValueError for a tiny object."""
        working = memory.working_size
        place = like(_nearest(labels, working), features)
        cells = cell_labels(place)
        for label in range(1, memory.classes):
            if not bool((cells == label).any()):
                raise ValueError(
                    f"object {label} is too small to be followed in images reduced to "
                    f"{working[1]} x {working[0]} px; give a larger one or raise working_size"
                )
        memory.kept[0] = features, one_hot(cells, memory.classes)[None]
        objects = range(1, memory.classes)
        memory.presence = [Presence(Appearance.of(*memory.kept[0], label)) for label in objects]
        self._memory, self.labels, self._object = memory, labels, 1

    @inference
    def join(self, others: Sequence[Tracker]) -> None:
        """Become labels of one map; see `Tracker.join`. Where masks overlap, the later one counts.

        Results then come from `track_batch`, which carries on the map once for all.

        Raises:
            RuntimeError: One of the trackers has no target.
            ValueError: They were started on images of other sizes, or no cell of one is left.
        """
        joined = [self, *cast("Sequence[MASTTracker]", others)]
        memories = [tracker._memory for tracker in joined]
        first = memories[0]
        if first is None or any(m is None or m.frame or len(m.boxes) > 1 for m in memories):
            raise RuntimeError("join() was called before every tracker was started on a target")
        if any(m is None or m.image_size != first.image_size for m in memories):
            raise ValueError("the targets were started on images of different sizes")
        labels = np.zeros(first.image_size, np.uint8)
        for number, tracker in enumerate(joined, 1):
            assert tracker.labels is not None
            labels[tracker.labels == 1] = number
        boxes = [box for memory in memories if memory is not None for box in memory.boxes]
        memory = _Memory(first.image_size, first.working_size, boxes)
        memory.pictures = dict(first.pictures)
        self._remember_start(first.kept[0][0], labels, memory)
        for number, tracker in enumerate(joined, 1):
            tracker._memory, tracker.labels, tracker._object = memory, labels, number

    @inference
    def track(self, image: np.ndarray) -> TrackResult:
        """Carry the masks on; see `Tracker.track`. The image may have another size than before."""
        memory = self._memory_for(image)
        picture = _resize(image, memory.working_size)
        return self._result(self._carry_on(picture, self.model.features(picture)))

    @inference
    def track_batch(
        self, others: Sequence[Tracker], image: np.ndarray
    ) -> list[TrackResult | Exception]:
        """Compute the image's features once for all targets; see `Tracker.track_batch`."""
        reduced: dict[tuple[int, int], tuple[np.ndarray, Array]] = {}
        carried: dict[int, _Carried] = {}
        outcomes: list[TrackResult | Exception] = []
        for tracker in (self, *cast("Sequence[MASTTracker]", others)):
            try:
                memory = tracker._memory_for(image)
                size = memory.working_size
                if size not in reduced:
                    picture = _resize(image, size)
                    reduced[size] = picture, self.model.features(picture)
                if id(memory) not in carried:
                    carried[id(memory)] = tracker._carry_on(*reduced[size])
                outcomes.append(tracker._result(carried[id(memory)]))
            except Exception as error:  # one target's failure is not the others'
                outcomes.append(error)
        return outcomes

    def _memory_for(self, image: np.ndarray) -> _Memory:
        """Return what is known, ready for an image; raises what `track` raises."""
        memory = self._memory
        if memory is None:
            raise RuntimeError("track() was called before initialize(); give it a box or a mask")
        check_image(image)
        if image.shape[:2] != memory.image_size:
            memory.change_to(image.shape[0], image.shape[1])
        return memory

    def _carry_on(self, picture: np.ndarray, features: Array) -> _Carried:
        """Copy the labels of the memory to the next image, reduced, by its features."""
        assert self._memory is not None
        memory = self._memory
        frame = memory.frame + 1
        numbers = reference_frames(frame, self.parameters)
        references = [Reference(*memory.kept[earlier], gap=frame - earlier) for earlier in numbers]
        soft = colourise(features, references, self.parameters)
        matching = None
        if self.illustrate and all(number in memory.pictures for number in numbers):
            earlier = {number: memory.pictures[number] for number in numbers}
            matching = _Matching(features, references, picture, earlier)
            memory.pictures[frame] = picture
        self._remember(frame, features, soft)
        pixels = spread_cells(
            soft, memory.working_size, memory.image_size, aligned=self.parameters.aligned
        )[0]
        labels = strongest(pixels)
        return _Carried(soft, pixels, labels, to_numpy(labels), matching)

    def _remember(self, frame: int, features: Array, soft: Array) -> None:
        assert self._memory is not None
        memory, working = self._memory, self._memory.working_size
        pixels = spread_cells(soft, working, working, aligned=self.parameters.aligned)
        labels = cell_labels(strongest(pixels[0]))
        memory.kept[frame] = features, one_hot(labels, memory.classes)[None]
        kept = frames_to_keep(frame, self.parameters)
        memory.kept = {f: known for f, known in memory.kept.items() if f in kept}
        memory.pictures = {f: p for f, p in memory.pictures.items() if f in memory.kept}
        memory.frame = frame

    def _result(self, carried: _Carried) -> TrackResult:
        """Return the result of this tracker's object."""
        assert self._memory is not None
        memory, number = self._memory, self._object
        height, width = memory.image_size
        self.labels = carried.map
        target = self.labels == number
        found, score = bool(target.any()), 0.0
        if found:
            score = min(float(carried.pixels[number][carried.labels == number].mean()), 1.0)
            memory.boxes[number - 1] = tight_box(target)
            now = Appearance.of(*memory.kept[memory.frame], number)
            found, share = memory.presence[number - 1].judge(now)
            score *= 1.0 if found else share
        return TrackResult(
            box=memory.boxes[number - 1],
            score=score,
            score_map=np.clip(to_numpy(carried.soft[0, number]), 0.0, 1.0),
            search_region=(0.0, 0.0, float(width), float(height)),
            mask=target,
            verdict=Verdict.NORMAL if found else Verdict.NOT_FOUND,
            views=self._views(carried, number),
        )

    def _views(self, carried: _Carried, number: int) -> tuple[View, ...]:
        """Return pictures of where some cells of an object were read from."""
        matching = carried.matching
        if matching is None:
            return ()
        soft = np.clip(to_numpy(carried.soft[0, number]), 0, 1)
        picture = matching.picture
        cells = spread_over(soft > 0.5, _MATCHES)
        found = matched_places(matching.features, matching.references, cells, self.parameters)
        views = [
            View("mask", picture, heat=soft),
            View("now", picture, points=tuple(_pixel(row, column) for row, column in cells)),
        ]
        for index, (frame, shown) in enumerate(matching.earlier.items()):
            nowhere = (math.nan, math.nan)
            points = [_pixel(m.row, m.column) if m.reference == index else nowhere for m in found]
            views.append(View(f"read from frame {frame}", shown, points=tuple(points)))
        return tuple(views)

    @property
    def runtime_info(self) -> dict[str, str]:
        """See `Tracker.runtime_info`."""
        return dict(self.model.runtime_info)

    def warm_up(self) -> None:
        """Run on a grey image; see `Tracker.warm_up`."""
        kept, side = (self._memory, self.labels, self._object), self.working_size
        image = np.full((*self.usual_size, 3), 128, dtype=np.uint8)
        try:
            self.initialize(image, (side / 4, side / 4, side / 2, side / 2))
            self.track(image)
        finally:
            self._memory, self.labels, self._object = kept

    def _working_size(self, height: int, width: int) -> tuple[int, int]:
        shrink = min(1.0, self.working_size / min(height, width))
        return round(height * shrink), round(width * shrink)


def _pixel(row: float, column: float) -> tuple[float, float]:
    """Return the place `(x, y)` of a cell in the working image, pixels."""
    return column * STRIDE + 0.5, row * STRIDE + 0.5


def usual_size(working_size: int, aspect: float) -> tuple[int, int]:
    """Return height and width, in pixels, of images of an aspect, reduced to a shorter side.

    Raises ValueError if the size or the aspect is none that images have.
    """
    if not _SMALLEST_SIDE <= working_size <= _LARGEST_SIDE:
        raise ValueError(
            f"working_size is {working_size}; expected {_SMALLEST_SIDE} to {_LARGEST_SIDE} pixels"
        )
    if not 1 / _MAX_ASPECT <= aspect <= _MAX_ASPECT:
        raise ValueError(
            f"aspect is {aspect}; expected the width of images over their height, at most "
            f"{_MAX_ASPECT} to 1 either way"
        )
    return round(working_size * max(1.0, 1 / aspect)), round(working_size * max(1.0, aspect))


def _resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return (H, W, 3) at `size` (height, width); a reduced image holds the means of areas."""
    image = in_order(image)
    if image.shape[:2] == size:
        return image
    import cv2

    method = cv2.INTER_AREA if image.shape[0] > size[0] else cv2.INTER_LINEAR
    return cv2.resize(image, size[::-1], interpolation=method)


def _nearest(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return (H, W) labels at the middles of the pixels of a smaller image."""
    rows, columns = (
        ((np.arange(small) + 0.5) * (large / small)).astype(np.int64)
        for small, large in zip(size, labels.shape, strict=True)
    )
    return labels[rows[:, None], columns]

# SPDX-License-Identifier: Apache-2.0
"""The tracking loop of one-stream trackers (OSTrack, GRM): crop, run, window, decode, map back.

Paper: Ye et al., ECCV 2022, section 3.5 (https://arxiv.org/abs/2203.11991). Official code:
https://github.com/botaoye/OSTrack (MIT), `lib/test/tracker/ostrack.py`; written anew.

What differs on purpose: the score at the chosen cell is reported as confidence (the official code
reports none); images and boxes are checked; a configuration may keep the search region where it is
while the score is low, and widen it, so that a hidden target is found again. It may also search a
narrow region, the middle of the whole one, while the target is found surely and moves little: that
costs half as much, and look-alikes further away are not even seen.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

import numpy as np

from tracker_ros.arrays import Array, on_device
from tracker_ros.calibration import SCORE_ONLY
from tracker_ros.crops import (
    box_in_crop,
    crop_region,
    crop_square,
    crops_to,
    hann_window,
    map_box_back,
)
from tracker_ros.geometry import Box, check_box, clip_box, iou, scale_box
from tracker_ros.models.layers.head_maps import HeadMaps, maps_from
from tracker_ros.models.one_stream.config import CropConfig
from tracker_ros.models.one_stream.on_engines import OneStreamOnEngines
from tracker_ros.tracker import Tracker, TrackResult, Verdict, View, check_image

if TYPE_CHECKING:
    import torch

_SAME_IOU = 0.5
_SURE = 0.4
_CALM = 0.6
"""From which score on, and up to which step along either axis, in sides of the target, a narrow
search is enough. By default its edge is 1.3 sides away."""
_FILLED = 0.75
"""Part of a narrow region's side that a target may take; longer ones get boxes too short."""


class OneStreamModel(Protocol):
    """A network that compares one template with search regions.

    It may also have `locate_batch(templates, searches)`, for one search region per template, and
    `token_mask()`, which returns the (B, layers, n, n) bool masks of the last pass, or None.
    """

    @property
    def config(self) -> CropConfig:
        """Sizes."""

    @property
    def device(self) -> torch.device | None:
        """Device that crops are passed on; None for a network that takes NumPy arrays."""

    @property
    def runtime_info(self) -> dict[str, str]:
        """Back end, device and precision in use."""

    def encode_template(self, template: Array, box_xywh: Array) -> Any:
        """Encode a (1, 3, T, T) normalised template with its (1, 4) target box as fractions."""

    def locate(self, template: Any, search: Array) -> HeadMaps:
        """Return the maps of a (1, 3, S, S) normalised search region, whole or narrow."""


class FirstSight(NamedTuple):
    """The search region around the target in the first image."""

    crop: np.ndarray  # (S, S, 3) RGB uint8
    box: Box  # `(x, y, w, h)` of the target as fractions of it


@dataclass(frozen=True)
class Target:
    """The target as a tracker knows it."""

    template: Any  # what the model made of the first image
    box: Box  # where the target was last, `(x, y, w, h)` in pixels of the image
    # height and width of that image; None if it is not known
    image_size: tuple[int, int] | None = None
    first: FirstSight | None = None  # what the first image shows; None if that was not kept
    missed: int = 0  # in how many images in a row it was not found
    calm: bool = False  # whether it was found surely, near where it had been


class _View(NamedTuple):
    """One target's search region in one image."""

    target: Target  # where it was
    crop: np.ndarray  # (S, S, 3) RGB uint8; S is smaller for a narrow region
    factor: float  # crop pixels per image pixel
    reach: float  # side of the crop over the square root of the box area
    height: int  # of the image, pixels
    width: int  # of the image, pixels
    sample: int = 0  # which sample of a pass it is

    @property
    def size(self) -> int:
        """Side of the crop, pixels."""
        return self.crop.shape[0]


class Peak(NamedTuple):
    """The best cell of a response map."""

    box_cxcywh: np.ndarray  # centre and size as fractions of the search crop, float32
    score: float  # plain score at that cell
    cell: int  # flat index of the cell
    response: float  # windowed score at that cell


def find_peak(score: np.ndarray, size: np.ndarray, offset: np.ndarray, window: np.ndarray) -> Peak:
    """Return the box at the maximum of the windowed score.

    Args:
        score: (n, n) float32 scores.
        size: (2, n, n) float32 width and height as fractions of the crop.
        offset: (2, n, n) float32 x and y within the cell.
        window: (n, n) float32 weights.
    """
    n = score.shape[0]
    response = window * score
    cell = int(response.argmax())
    row, column = divmod(cell, n)
    centre = (np.array([column, row], dtype=np.float32) + offset[:, row, column]) / np.float32(n)
    box = np.concatenate([centre, size[:, row, column]])
    return Peak(box, float(score[row, column]), cell, float(response[row, column]))


class OneStreamTracker(Tracker):
    """Follows one target with a fixed template, cropped from the first image.

    Args:
        model: The network.

    Attributes:
        target: The target, replaced after every image; None before `initialize`.
    """

    calibration = SCORE_ONLY

    def __init__(self, model: OneStreamModel) -> None:
        self.model = model
        config, grid = model.config, model.config.search_grid
        self._window = hann_window(grid)
        self._narrow: CropConfig | None = None
        if config.narrow_grid:
            self._narrow = config.narrowed()
            edge = (grid - config.narrow_grid) // 2
            self._narrow_window = self._window[edge : grid - edge, edge : grid - edge]
        self.target: Target | None = None
        self._template_view: View | None = None

    def initialize(self, image: np.ndarray, box: Sequence[float]) -> None:
        """Crop and encode the template; see `Tracker.initialize`."""
        check_image(image)
        start = check_box(box, image.shape[0], image.shape[1])
        config = self.model.config
        template, template_view = self._encode(image, start)
        crop, factor = crop_square(image, start, config.search_factor, config.search_size)
        first = FirstSight(crop, box_in_crop(start, start, factor, config.search_size))
        self.target = Target(template, start, image.shape[:2], first)
        if self.illustrate:
            self._template_view = template_view

    def _encode(self, image: np.ndarray, box: Box) -> tuple[Any, View]:
        """Return what the network compares search regions with, and a picture of it."""
        size, device = self.model.config.template_size, self.model.device
        crop, factor = crop_square(image, box, self.model.config.template_factor, size)
        place = box_in_crop(box, box, factor, size)
        given = on_device(np.array([place], dtype=np.float32), device)
        template = self.model.encode_template(crops_to(device, [crop]), given)
        return template, View("template", crop, boxes=((_scaled(place, size), ""),))

    def track(self, image: np.ndarray) -> TrackResult:
        """Search around the previous box; see `Tracker.track`."""
        return track_batch([self], [image])[0]

    def search_around(self, box: Box) -> bool:
        """Move the search region, with its usual reach; see `Tracker.search_around`."""
        if self.target is not None:
            self.target = replace(self.target, box=box, missed=0, calm=False)
        return True

    def look_back(self, image: np.ndarray, box: Box) -> float | None:
        """Look for a template of `box` in the first image; see `Tracker.look_back`."""
        first = None if self.target is None else self.target.first
        if first is None:
            return None
        template, _ = self._encode(image, box)
        maps = maps_from(self.model.locate(template, crops_to(self.model.device, [first.crop])))
        peak = find_peak(maps[0, 0], maps[0, 1:3], maps[0, 3:], self._window)
        cx, cy, w, h = (float(part) for part in peak.box_cxcywh)
        same = iou((cx - w / 2, cy - h / 2, w, h), first.box) > _SAME_IOU
        return peak.score if same else 0.0

    def _illustrated(self, view: _View, result: TrackResult) -> TrackResult:
        """Return a result with views, if they are wanted; it is of the last pass."""
        if not self.illustrate or result.score_map is None:
            return result
        found = box_in_crop(result.box, view.target.box, view.factor, view.size)
        best = ((_scaled(found, view.size), f"{result.score:.2f}"),)
        views = [] if self._template_view is None else [self._template_view]
        views.append(View("score", view.crop, heat=result.score_map, boxes=best))
        views += self._more_views(view)
        layers = getattr(self.model.config, "ce_layers", ())
        for number, kept in enumerate(() if result.token_mask is None else result.token_mask):
            title = f"kept by block {layers[number]}" if layers else f"met in block {number + 1}"
            views.append(View(title, view.crop, kept=kept))
        return replace(result, views=tuple(views))

    def _more_views(self, view: _View) -> list[View]:
        """Return a family's own views of the last pass."""
        return []

    def _token_masks(self) -> np.ndarray | None:
        """Return the (B, layers, n, n) token masks of the model's last pass, where it has any."""
        ask = getattr(self.model, "token_mask", None) if self.explain else None
        return None if ask is None else ask()

    def _look(self, image: np.ndarray, whole: bool = False) -> _View:
        """Crop around the previous box, scaled with the image if that has another size.

        The crop is narrow if that is enough, unless the `whole` search region is wanted.
        """
        target = self.target
        if target is None:
            raise RuntimeError("track() was called before initialize(); give it a box first")
        height, width = check_image(image).shape[:2]
        before = target.image_size or (height, width)
        if before != (height, width):
            target = replace(target, box=scale_box(target.box, before, (height, width)))
        target = replace(target, image_size=(height, width))
        if self._narrow is not None and target.calm and not whole:
            reach, size = self._narrow.search_factor, self._narrow.search_size
        else:
            reach, size = self._reach(target), self.model.config.search_size
        crop, factor = crop_square(image, target.box, reach, size)
        return _View(target, crop, factor, reach, height, width)

    def _reach(self, target: Target) -> float:
        """Return the side of the search crop over the square root of the target's box area."""
        config = self.model.config
        return config.search_factor * min(config.widest, 1.0 + config.widening * target.missed)

    def _decode(
        self, view: _View, maps: np.ndarray, token_masks: np.ndarray | None
    ) -> TrackResult:
        """Return the result of a view, given the maps (B, 5, n, n) of which it is one sample."""
        config, previous = self.model.config, view.target.box
        score, size, offset = np.split(maps[view.sample], (1, 3))
        whole = view.size == config.search_size
        peak = find_peak(score[0], size, offset, self._window if whole else self._narrow_window)
        if not np.isfinite(peak.box_cxcywh).all():
            raise RuntimeError(
                f"the network returned a box of {peak.box_cxcywh.tolist()}; expected finite "
                "numbers (damaged weights, or a precision that overflows: use precision='fp32')"
            )
        # In float32 like the official code, which scales the box before it leaves the network.
        in_image = peak.box_cxcywh * np.float32(view.size) / np.float32(view.factor)
        box = map_box_back(in_image.tolist(), previous, view.factor, view.size)
        box = clip_box(box, view.height, view.width, config.clip_margin)
        found = peak.score >= config.hold_below
        region = crop_region(previous, view.reach)
        covered = (float(region.left), float(region.top), float(region.side), float(region.side))
        verdict = None if found else Verdict.NOT_FOUND
        token_mask = None if token_masks is None else token_masks[view.sample]
        return TrackResult(
            box, peak.score, score[0], covered, verdict=verdict, token_mask=token_mask
        )

    def _remember(self, view: _View, result: TrackResult) -> TrackResult:
        """Search around the result in the next image, unless the target was not found."""
        if result.verdict is None:
            calm = self._is_calm(view, result)
            self.target = replace(view.target, box=result.box, missed=0, calm=calm)
        else:
            missed = view.target.missed + 1
            self.target = replace(view.target, missed=missed, calm=False)
        return result

    def _is_calm(self, view: _View, result: TrackResult) -> bool:
        """Tell whether a narrow search is enough: it fits, found surely and near the last one."""
        if self._narrow is None or result.verdict is not None or result.score < _SURE:
            return False
        before, now = view.target.box, result.box
        step = max(abs(now[i] - before[i] + (now[i + 2] - before[i + 2]) / 2) for i in (0, 1))
        near = step <= _CALM * math.sqrt(before[2] * before[3])
        side = self._narrow.search_factor * math.sqrt(now[2] * now[3])
        return near and max(now[2:]) <= _FILLED * side

    def track_batch(
        self, others: Sequence[Tracker], image: np.ndarray
    ) -> list[TrackResult | Exception]:
        """Find several targets in one pass of the network; see `Tracker.track_batch`."""
        return self.track_images(others, [image] * (1 + len(others)))

    @property
    def shares_passes(self) -> bool:
        """Whether the network takes several search regions at once."""
        return hasattr(self.model, "locate_batch")

    def track_images(
        self, others: Sequence[Tracker], images: Sequence[np.ndarray]
    ) -> list[TrackResult | Exception]:
        """Find targets of several images in one pass; see `Tracker.track_images`."""
        together = [self, *cast("Sequence[OneStreamTracker]", others)]
        try:
            return [*track_batch(together, images)]
        except (ValueError, RuntimeError):  # no target has changed: ask each for its own outcome
            return super().track_images(others, images)

    @property
    def runtime_info(self) -> dict[str, str]:
        """Back end, device and precision in use; see `Tracker.runtime_info`."""
        return dict(self.model.runtime_info)

    def trim(self) -> None:
        """Free the engines for several targets; see `Tracker.trim`."""
        if isinstance(self.model, OneStreamOnEngines):
            self.model.trim()

    def warm_up(self) -> None:
        """Run on a grey image; see `Tracker.warm_up`."""
        target, view = self.target, self._template_view
        side = self.model.config.search_size
        image = np.full((side, side, 3), 128, dtype=np.uint8)
        try:
            self.initialize(image, (side / 4, side / 4, side / 2, side / 2))
            for calm in (False, True):
                self.target = replace(cast(Target, self.target), calm=calm)
                self.track(image)
        finally:
            self.target, self._template_view = target, view


def _scaled(fractions: Sequence[float], side: int) -> Box:
    """Return a box in pixels of a crop, given as fractions of its side."""
    x, y, w, h = (float(part) * side for part in fractions)
    return (x, y, w, h)


def track_batch(
    trackers: Sequence[OneStreamTracker], images: Sequence[np.ndarray]
) -> list[TrackResult]:
    """Find several targets with few passes of the network they share, each in its next image.

    Args:
        trackers: One per target, each initialised; all with the same model object.
        images: One per target, RGB uint8 (H, W, 3).

    Returns:
        One result per tracker, equal to that of its `track` up to rounding.

    Raises:
        ValueError: The trackers do not share a model, or an image is unusable; all targets are
            kept.
        RuntimeError: A tracker was not initialised, or the network returned a box that is not
            finite; all targets are kept.
    """
    models = {id(tracker.model): tracker.model for tracker in trackers}
    if len(models) > 1:
        raise ValueError(
            f"{len(trackers)} trackers have {len(models)} models; expected one model object "
            "that all share (make further ones with OneStreamTracker(first.model))"
        )
    looks = [tracker._look(image) for tracker, image in zip(trackers, images, strict=True)]
    found = _search(trackers, dict(enumerate(looks)))
    size = trackers[0].model.config.search_size if trackers else 0
    again = {
        i: trackers[i]._look(images[i], whole=True)
        for i, (view, result) in found.items()
        if view.size < size and not trackers[i]._is_calm(view, result)
    }
    found.update(_search(trackers, again))
    in_order = zip(trackers, (found[i] for i in range(len(trackers))), strict=True)
    return [
        tracker._remember(view, tracker._illustrated(view, result))
        for tracker, (view, result) in in_order
    ]


def _search(
    trackers: Sequence[OneStreamTracker], views: Mapping[int, _View]
) -> dict[int, tuple[_View, TrackResult]]:
    """Return views with their results, by the number of the tracker that each belongs to.

    Views of one size take one pass, if the model has passes for several.
    """
    passes: list[list[int]] = []
    for size in sorted({view.size for view in views.values()}):
        alike = [i for i, view in views.items() if view.size == size]
        shared = len(alike) > 1 and trackers[0].shares_passes
        passes += [alike] if shared else [[i] for i in alike]
    return {i: found for numbers in passes for i, found in _pass(trackers, views, numbers)}


def _pass(
    trackers: Sequence[OneStreamTracker], views: Mapping[int, _View], numbers: Sequence[int]
) -> Iterator[tuple[int, tuple[_View, TrackResult]]]:
    """Yield what one pass finds in the views of these numbers, which have one size."""
    model: Any = trackers[0].model
    alike = [views[i]._replace(sample=sample) for sample, i in enumerate(numbers)]
    templates = [view.target.template for view in alike]
    searches = crops_to(model.device, [view.crop for view in alike])
    located = (
        model.locate(templates[0], searches)
        if len(alike) == 1
        else model.locate_batch(templates, searches)
    )
    maps = maps_from(located)
    for i, view in zip(numbers, alike, strict=True):
        yield i, (view, trackers[i]._decode(view, maps, trackers[i]._token_masks()))

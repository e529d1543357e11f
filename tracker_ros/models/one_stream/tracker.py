# SPDX-License-Identifier: Apache-2.0
"""The tracking loop of one-stream trackers (OSTrack, GRM): crop, run, window, decode, map back.

Paper: Ye et al., ECCV 2022, section 3.5 (https://arxiv.org/abs/2203.11991). Official code:
https://github.com/botaoye/OSTrack (MIT), `lib/test/tracker/ostrack.py`; written anew.

What differs on purpose: the score at the chosen cell is reported as confidence (officially none
is); images and boxes are checked; a configuration may let the search region stay where it is
while the score is low, so that a hidden target is met again where it was last seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
import torch

from tracker_ros.crops import (
    box_in_crop,
    crop_region,
    crop_square,
    crops_to,
    hann_window,
    map_box_back,
)
from tracker_ros.geometry import Box, check_box, clip_box
from tracker_ros.models.layers.center_head import HeadMaps
from tracker_ros.models.one_stream.config import OneStreamConfig
from tracker_ros.models.one_stream.network import maps_from
from tracker_ros.tracker import Tracker, TrackResult, Verdict, check_image


class OneStreamModel(Protocol):
    """A network that compares one template with search regions."""

    @property
    def config(self) -> OneStreamConfig:
        """Sizes."""

    @property
    def device(self) -> torch.device:
        """Where it takes crops."""

    @property
    def runtime_info(self) -> dict[str, str]:
        """Back end, device and precision in use."""

    def encode_template(self, template: torch.Tensor, box_xywh: torch.Tensor) -> Any:
        """(1, 3, T, T) normalised template and (1, 4) target box as fractions -> opaque state."""

    def locate(self, template: Any, search: torch.Tensor) -> HeadMaps:
        """State and (1, 3, S, S) normalised search region -> maps."""


@dataclass(frozen=True)
class _Target:
    template: Any
    box: Box


class _View(NamedTuple):
    """One target's search region in one image.

    Attributes:
        target: Where it was.
        crop: (S, S, 3) RGB uint8.
        factor: Crop pixels per image pixel.
        height: Of the image, pixels.
        width: Of the image, pixels.
    """

    target: _Target
    crop: np.ndarray
    factor: float
    height: int
    width: int


class Peak(NamedTuple):
    """The best cell of a response map.

    Attributes:
        box_cxcywh: Centre and size as fractions of the search crop, float32.
        score: Plain score at that cell.
        cell: Flat index of the cell.
        response: Windowed score at that cell.
    """

    box_cxcywh: np.ndarray
    score: float
    cell: int
    response: float


def find_peak(score: np.ndarray, size: np.ndarray, offset: np.ndarray, window: np.ndarray) -> Peak:
    """Decode the box where the windowed score is largest.

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
    """

    def __init__(self, model: OneStreamModel) -> None:
        self.model = model
        self._window = hann_window(model.config.search_grid)
        self._target: _Target | None = None

    def initialize(self, image: np.ndarray, box: Sequence[float]) -> None:
        """Crop and encode the template; see `Tracker.initialize`."""
        check_image(image)
        start = check_box(box, image.shape[0], image.shape[1])
        size = self.model.config.template_size
        crop, factor = crop_square(image, start, self.model.config.template_factor, size)
        place = torch.tensor([box_in_crop(start, start, factor, size)], dtype=torch.float32)
        template = self.model.encode_template(crops_to(self.model.device, [crop]), place)
        self._target = _Target(template, start)

    def track(self, image: np.ndarray) -> TrackResult:
        """Search around the previous box; see `Tracker.track`."""
        view = self._look(image)
        maps = self.model.locate(view.target.template, crops_to(self.model.device, [view.crop]))
        return self._settle(view, self._decode(view, maps_from(maps), 0, self._token_masks()))

    def _token_masks(self) -> np.ndarray | None:
        """Return the (B, layers, n, n) token masks of the model's last pass, where it has any."""
        ask = getattr(self.model, "token_mask", None) if self.explain else None
        return None if ask is None else ask()

    def _look(self, image: np.ndarray) -> _View:
        """Crop around the previous box."""
        if self._target is None:
            raise RuntimeError("track() was called before initialize(); give it a box first")
        check_image(image)
        config, box = self.model.config, self._target.box
        crop, factor = crop_square(image, box, config.search_factor, config.search_size)
        return _View(self._target, crop, factor, image.shape[0], image.shape[1])

    def _decode(
        self, view: _View, maps: np.ndarray, sample: int, token_masks: np.ndarray | None
    ) -> TrackResult:
        """What one sample of the maps, (B, 5, n, n), says of a view."""
        config, previous = self.model.config, view.target.box
        score, size, offset = maps[sample, 0], maps[sample, 1:3], maps[sample, 3:]
        peak = find_peak(score, size, offset, self._window)
        if not np.isfinite(peak.box_cxcywh).all():
            raise RuntimeError(
                f"the network returned a box of {peak.box_cxcywh.tolist()}; expected finite "
                "numbers (damaged weights, or a precision that overflows: use precision='fp32')"
            )
        # In float32, as officially: the scale is applied before the box leaves the network.
        in_image = peak.box_cxcywh * np.float32(config.search_size) / np.float32(view.factor)
        box = map_box_back(in_image.tolist(), previous, view.factor, config.search_size)
        box = clip_box(box, view.height, view.width, config.clip_margin)
        found = peak.score >= config.hold_below
        region = crop_region(previous, config.search_factor)
        covered = (float(region.left), float(region.top), float(region.side), float(region.side))
        state = None if found else Verdict.NOT_FOUND
        token_mask = None if token_masks is None else token_masks[sample]
        return TrackResult(box, peak.score, score, covered, verdict=state, token_mask=token_mask)

    def _settle(self, view: _View, result: TrackResult) -> TrackResult:
        """Search around the result from the next image on, unless nothing was found."""
        if result.verdict is None:
            self._target = _Target(view.target.template, result.box)
        return result

    def track_batch(
        self, others: Sequence[Tracker], image: np.ndarray
    ) -> list[TrackResult | Exception]:
        """With one pass of the network; see `Tracker.track_batch`."""
        try:
            return [*track_batch([self, *cast("Sequence[OneStreamTracker]", others)], image)]
        except (ValueError, RuntimeError):  # all targets are kept: each may say for itself
            return super().track_batch(others, image)

    @property
    def runtime_info(self) -> dict[str, str]:
        """What computes; see `Tracker.runtime_info`."""
        return dict(self.model.runtime_info)

    def move_to(self, box: Sequence[float]) -> None:
        """Search around another box from the next image on, with the template unchanged.

        Args:
            box: `(x, y, w, h)` in pixels.

        Raises:
            RuntimeError: `initialize` has not been called.
        """
        if self._target is None:
            raise RuntimeError("move_to() was called before initialize(); give it a box first")
        x, y, w, h = (float(v) for v in box)
        self._target = _Target(self._target.template, (x, y, w, h))

    def warm_up(self) -> None:
        """Run on a grey image; see `Tracker.warm_up`."""
        target, side = self._target, self.model.config.search_size
        image = np.full((side, side, 3), 128, dtype=np.uint8)
        try:
            self.initialize(image, (side / 4, side / 4, side / 2, side / 2))
            self.track(image)
        finally:
            self._target = target


def track_batch(trackers: Sequence[OneStreamTracker], image: np.ndarray) -> list[TrackResult]:
    """Find several targets in the next image with one pass of the network they share.

    Args:
        trackers: One per target, each initialised; all with the same model object.
        image: RGB uint8 (H, W, 3).

    Returns:
        One result per tracker: what its `track` would have returned, up to rounding.

    Raises:
        ValueError: The trackers do not share a model, or the image is unusable; all targets are
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
    locate_batch = getattr(next(iter(models.values()), None), "locate_batch", None)
    if len(trackers) < 2 or locate_batch is None:
        return [tracker.track(image) for tracker in trackers]
    views = [tracker._look(image) for tracker in trackers]
    searches = crops_to(trackers[0].model.device, [view.crop for view in views])
    maps = maps_from(locate_batch([view.target.template for view in views], searches))
    each = list(zip(trackers, views, strict=True))
    masks = [tracker._token_masks() for tracker in trackers]
    results = [tracker._decode(view, maps, i, masks[i]) for i, (tracker, view) in enumerate(each)]
    return [
        tracker._settle(view, result)
        for (tracker, view), result in zip(each, results, strict=True)
    ]

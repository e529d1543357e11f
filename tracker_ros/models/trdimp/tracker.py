# SPDX-License-Identifier: Apache-2.0
"""The tracking loop of TrDiMP and TrSiam: find, refine, learn.

Paper: Wang et al., "Transformer Meets Tracker: Exploiting Temporal Context for Robust Visual
Tracking", CVPR 2021 (https://arxiv.org/abs/2103.11681). Official code:
https://github.com/594422814/TransformerTrack (MIT, built on pytracking),
`pytracking/tracker/trdimp/trdimp.py` for the behaviour; written anew. TrSiam and the variants for
LaSOT and VOT differ by `TrackingParameters` alone.

What differs on purpose: random numbers come from a generator that every start begins anew; what a
frame teaches is learned by `update_model`, after its result is out and before the next frame;
images, boxes and the network's answers are checked; the score is cut to [0, 1]. Inside this file
positions and sizes are `(y, x)`, boxes are `(x, y, w, h)` in pixels of a patch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from tracker_ros.arrays import Array, concatenate, inference, on_device, to_numpy
from tracker_ros.crops import hann_window, normalize_pixels
from tracker_ros.geometry import Box, check_box, scale_box
from tracker_ros.models.trdimp.config import TrackingParameters
from tracker_ros.models.trdimp.features import Modulation, PatchFeatures
from tracker_ros.models.trdimp.labels import gaussian_label
from tracker_ros.models.trdimp.localisation import (
    Sighting,
    choose_box,
    keep_inside,
    localise,
    remember_shape,
    start_boxes,
)
from tracker_ros.models.trdimp.on_engines import GraphMemory, TrDiMPOnEngines
from tracker_ros.models.trdimp.patches import (
    Border,
    Draws,
    Placement,
    SeededDraws,
    augment,
    box_to_target,
    choose_window,
    cut,
    drop_channels,
    target_to_box,
)
from tracker_ros.models.trdimp.samples import SampleMemory
from tracker_ros.models.trdimp.views import (
    Proposals,
    as_box,
    as_heat,
    as_picture,
    contact_sheet,
    proposal_view,
)
from tracker_ros.tracker import Tracker, TrackResult, Verdict, View, check_image

if TYPE_CHECKING:
    from tracker_ros.models.trdimp.inference import TrDiMPInference
    from tracker_ros.models.trdimp.memory import TransformerMemory

VIEWS_AT_ONCE = 4
"""Patches of the first image that go through the backbone together: more take more memory."""


@dataclass(frozen=True)
class _SearchArea:
    """Where the target is.

    Attributes:
        position: (2,) float32, pixels of the image.
        size: (2,) float32, pixels of the image.
        scale: Pixels of the image per pixel of the patch that is to be cut next.
        refined: The last position that came from a refined box, or None.
    """

    position: np.ndarray
    size: np.ndarray
    scale: np.float32
    refined: np.ndarray | None = None


@dataclass(frozen=True)
class _TrainingSample:
    """What a frame has to teach.

    Attributes:
        classification: (1, C, h, w) features.
        decoded: (1, C, h, w), the same after the memory has been asked.
        box: (4,) float32 where the target is.
        hard_negative: Whether a look-alike was near.
    """

    classification: Array
    decoded: Array
    box: np.ndarray
    hard_negative: bool


@dataclass
class _Target:
    """All that is known of the target.

    Attributes:
        place: Where it is.
        base_size: (2,) float32, its size in the first patch.
        modulation: What it looks like to the IoU branch.
        memory: What it looks like to the transformer.
        samples: What the filter learns from.
        filter: (C, k, k) that answers to it.
        draws: Random numbers to come.
        image_size: Height and width of the last image.
        frame: Frames since the first.
        sample: What the last frame has to teach and was not learned yet.
    """

    place: _SearchArea
    base_size: np.ndarray
    modulation: Modulation
    memory: TransformerMemory | GraphMemory
    samples: SampleMemory
    filter: Array
    draws: Draws
    image_size: tuple[int, int]
    frame: int = 0
    sample: _TrainingSample | None = None


class TrDiMPTracker(Tracker):
    """Follows one target with a filter that it learns on the way.

    Args:
        model: The network.
        parameters: What steers the tracker.
        seed: Of the random numbers.
        draws: Makes the source of random numbers at each start; None takes the seed's.
    """

    def __init__(
        self,
        model: TrDiMPInference | TrDiMPOnEngines,
        parameters: TrackingParameters,
        *,
        seed: int = 0,
        draws: Callable[[], Draws] | None = None,
    ) -> None:
        self.model = model
        self.parameters = parameters
        self._draws = draws or (lambda: SeededDraws(seed))
        self._target: _Target | None = None
        self._first_views: View | None = None

    def fork(self) -> TrDiMPTracker:
        """Return a tracker without a target, with the same network; see `Tracker.fork`."""
        tracker = copy.copy(self)
        tracker._target = None
        return tracker

    @inference
    def initialize(self, image: np.ndarray, box: Sequence[float]) -> None:
        """Learn the target from the first image; see `Tracker.initialize`.

        The earlier target, if any, is kept until the new one is known to be sound.
        """
        check_image(image)
        start = check_box(box, image.shape[0], image.shape[1])
        options, model, draws = self.parameters, self.model, self._draws()
        side = options.image_sample_size
        position, size = box_to_target(start)
        search_area = (size * np.float32(options.search_area_scale)).prod()
        scale = np.float32(np.sqrt(search_area) / np.float32(side))

        # Augment: several views of one wide patch, and where the target is in each.
        placement = Placement(np.rint(position), scale, side)
        wide_side = int(side * options.augmentation_expansion_factor)
        wide_side += (wide_side - side) % 2
        extent = np.full(2, scale * np.float32(wide_side))
        window = choose_window(
            placement.position, extent, wide_side, image.shape, Border.REPLICATE
        )
        views = augment(cut(image, window, wide_side), options, draws)
        box_in_patch = placement.box_in_patch(position, size)
        boxes = np.tile(box_in_patch, (len(views.shifts), 1))
        boxes[:, :2] += views.shifts

        # Features, of the first view for the IoU branch too.
        patches = self._on_device(normalize_pixels(views.patches))
        first = model.features(patches[:1])
        others = [
            model.features(patches[start : start + VIEWS_AT_ONCE])
            for start in range(1, len(patches), VIEWS_AT_ONCE)
        ]
        classification = concatenate([view.classification for view in (first, *others)])
        classification, copies = drop_channels(classification, options, draws)
        boxes = np.concatenate([boxes, np.tile(box_in_patch, (copies, 1))])
        places = self._on_device(boxes)
        modulation = self._modulation([first, *others], places)

        # Encode, then fit the filter to what the memory makes of its own images.
        memory = model.start_memory(
            classification,
            self._labels(places, classification),
            options.transformer_memory_size,
        )
        decoded = memory.decode(classification)
        target_filter = model.initial_filter(decoded, places)
        target_filter = model.fit(target_filter, decoded, places, options.net_opt_iter)
        samples = SampleMemory(
            decoded, places, options.sample_memory_size, options.init_samples_minimum_weight
        )
        _finite(to_numpy(target_filter), "filter")
        if self.illustrate:
            self._first_views = contact_sheet(views.patches, boxes)
        self._target = _Target(
            _SearchArea(position, size, scale),
            size / scale,
            modulation,
            memory,
            samples,
            target_filter,
            draws,
            image.shape[:2],
        )

    @inference
    def track(self, image: np.ndarray) -> TrackResult:
        """Find the target near its last place; see `Tracker.track`."""
        if self._target is None:
            raise RuntimeError("track() was called before initialize(); give it a box first")
        check_image(image)
        self.update_model()
        target, options, model = self._target, self.parameters, self.model
        if image.shape[:2] != target.image_size:  # the same view in another resolution
            box = target_to_box(target.place.position, target.place.size)
            self.search_around(scale_box(box, target.image_size, image.shape[:2]))
            target.image_size = image.shape[:2]
        place, side = target.place, options.image_sample_size

        # Crop and compare.
        window = choose_window(
            place.position,
            np.full(2, place.scale * np.float32(side)),
            side,
            image.shape,
            Border(options.border_mode),
            options.patch_max_scale_change,
        )
        placement = Placement.of(window, side)
        pixels = cut(image, window, side)
        features = model.features(self._on_device(normalize_pixels(pixels)))
        decoded = target.memory.decode(features.classification)
        score = _finite(to_numpy(model.score(target.filter, decoded)), "score map")

        # Localise, refine.
        weights = hann_window(len(score)) if options.window_output else None
        sighting = localise(score, placement, place.position, place.size, options, weights)
        sample, proposals = None, None
        if sighting.verdict is not Verdict.NOT_FOUND:
            learned, place, proposals = self._refine(
                target, features, placement, sighting, image.shape
            )
            if options.update_classifier and sighting.verdict is not Verdict.UNCERTAIN:
                sample = _TrainingSample(
                    features.classification,
                    decoded,
                    placement.box_in_patch(learned, place.size),
                    sighting.verdict is Verdict.HARD_NEGATIVE,
                )
        target.place, target.sample = place, sample
        target.frame += 1
        return TrackResult(
            target_to_box(place.position, place.size),
            float(np.clip(score.max(), 0.0, 1.0)),
            np.clip(score, 0.0, 1.0),
            placement.region(len(score), side // (len(score) - 1)),
            verdict=sighting.verdict,
            views=self._views(pixels, score, placement, place, proposals),
        )

    def _views(
        self,
        pixels: np.ndarray,
        score: np.ndarray,
        placement: Placement,
        place: _SearchArea,
        proposals: Proposals | None,
    ) -> tuple[View, ...]:
        """Return pictures of the last image, if they are wanted."""
        if not self.illustrate:
            return ()
        crop = as_picture(pixels[0])
        box = placement.box_in_patch(place.position, place.size)
        found = ((as_box(box), f"{float(score.max()):.2f}"),)
        views = [] if self._first_views is None else [self._first_views]
        views.append(View("score", crop, heat=np.clip(score, 0, 1), boxes=found))
        if proposals is not None:
            views.append(proposal_view(crop, proposals))
        learned_maps = getattr(self.model, "learned_maps", None)
        if learned_maps is not None:
            maps = learned_maps(self._on_device(box)[None], len(score))
            views += [
                View(f"{name} to learn", crop, heat=as_heat(to_numpy(each[0])))
                for name, each in zip(("label", "mask", "weight"), maps, strict=True)
            ]
        return tuple(views)

    def search_around(self, box: Box) -> bool:
        """Move the search area; see `Tracker.search_around`."""
        target = self._target
        if target is not None:
            position, size = box_to_target(box)
            scale = np.sqrt(size.prod() / target.base_size.prod())
            target.place = _SearchArea(position, size, scale)
            target.sample = None
        return True

    def _modulation(self, views: Sequence[PatchFeatures], boxes: Array) -> Modulation:
        """Describe the target to the IoU branch, by the first view or by all but rotated ones."""
        options = self.parameters
        count = 1
        if options.iounet_augmentation:
            count = options.views.views - len(options.views.rotate) - options.views.dropout_copies
        single = [
            PatchFeatures(*(layer[i : i + 1] for layer in part))
            for part in views
            for i in range(len(part.layer2))
        ]
        found = [self.model.modulation(single[i], boxes[i]) for i in range(count)]
        if count == 1:
            return found[0]
        return Modulation(
            *(concatenate(parts).mean(0)[None] for parts in zip(*found, strict=True))
        )

    def _refine(
        self,
        target: _Target,
        features: PatchFeatures,
        placement: Placement,
        sighting: Sighting,
        image_shape: tuple[int, ...],
    ) -> tuple[np.ndarray, _SearchArea, Proposals]:
        """Fit the box to the target at its new position.

        Returns (2,) the position to learn, the place to go on from, and the boxes that were
        refined. The first two differ only where no box is left: then the tracker goes on from the
        last refined position, as officially.
        """
        options, before = self.parameters, target.place
        position = keep_inside(
            placement.position + sighting.translation,
            before.size,
            image_shape,
            options.target_inside_ratio,
        )
        box = placement.box_in_patch(position, before.size)
        starts = start_boxes(box, target.draws.boxes(options.num_init_random_boxes), options)
        refined, ious = self.model.refine(
            target.modulation,
            features,
            self._on_device(starts),
            options,
        )
        overlaps = to_numpy(ious)
        if not np.isfinite(overlaps).any():
            _finite(overlaps, "predicted overlap")
        # What climbed beyond all numbers is refused below.
        with np.errstate(over="ignore"):
            chosen = choose_box(to_numpy(refined), overlaps, options)
            if chosen is None:
                last = position if before.refined is None else before.refined
                return position, replace(before, position=last), Proposals(starts, None, overlaps)
            chosen = remember_shape(chosen, target.base_size, options.shape_memory)
            position, size = placement.target_of(chosen)
            scale = np.sqrt(size.prod() / target.base_size.prod())
        _finite(position, "target position")
        _finite(scale, "target size")
        if sighting.verdict is Verdict.UNCERTAIN and not options.update_scale_when_uncertain:
            scale = before.scale
        found = Proposals(starts, to_numpy(refined), overlaps)
        return position, _SearchArea(position, size, scale, refined=position), found

    @inference
    def update_model(self) -> None:
        """Update filter and memory with the last frame; see `Tracker.update_model`."""
        target = self._target
        if target is None or target.sample is None:
            return
        options, sample, frame = self.parameters, target.sample, target.frame
        target.sample = None
        box = self._on_device(sample.box)
        if sample.hard_negative:
            rate, iterations = options.hard_negative_learning_rate, options.net_opt_hn_iter
        else:
            due = frame % options.train_skipping == 0
            rate, iterations = options.learning_rate, options.net_opt_update_iter * due
        samples = target.samples
        samples.add(sample.decoded, box, rate)
        if iterations > 0:
            learned = self.model.fit(
                target.filter, samples.features, samples.boxes, iterations, samples.sample_weight
            )
            _finite(to_numpy(learned), "filter")
            target.filter = learned
        if frame % options.transformer_skipping == 0:
            label = self._labels(box[None], sample.classification)
            target.memory.prepend(sample.classification, label)

    @property
    def runtime_info(self) -> dict[str, str]:
        """See `Tracker.runtime_info`."""
        return dict(self.model.runtime_info)

    def warm_up(self) -> None:
        """Run on a grey image; see `Tracker.warm_up`."""
        self.update_model()
        target, views = self._target, self._first_views
        side = self.parameters.image_sample_size
        image = np.full((side, side, 3), 128, dtype=np.uint8)
        try:
            self.initialize(image, (side / 4, side / 4, side / 2, side / 2))
            self.track(image)
            self.update_model()
        finally:
            self._target, self._first_views = target, views

    def _labels(self, boxes: Array, classification: Array) -> Array:
        """(N, 4) boxes and (N, C, h, w) features -> (N, 1, h, w) labels of the transformer."""
        config = self.model.config
        labels = gaussian_label(
            boxes,
            classification.shape[-1],
            filter_size=config.filter_size,
            stride=config.stride,
        )
        return labels[:, None]

    def _on_device(self, array: np.ndarray) -> Array:
        return on_device(array, self.model.device)


def _finite(values: np.ndarray, what: str) -> np.ndarray:
    """Return the values; raises RuntimeError if one of them is not a finite number."""
    if not np.isfinite(values).all():
        raise RuntimeError(
            f"the network returned a {what} that is not finite ({np.isnan(values).sum()} nan "
            f"among {values.size}); expected numbers (damaged weights: load others; or a target "
            "that was lost: initialise again)"
        )
    return values

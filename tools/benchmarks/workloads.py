# SPDX-License-Identifier: Apache-2.0
"""Give a tracker of each family one piece of work after the other, to be timed.

Images are noise and boxes are put back to their place, so that every frame takes the same work.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tracker_ros.evaluation.baselines import OpenCvTracker
from tracker_ros.models.mast.config import frames_to_keep
from tracker_ros.models.mast.tracker import MASTTracker
from tracker_ros.models.one_stream.tracker import OneStreamTracker, track_batch
from tracker_ros.models.trdimp.config import TrackingParameters
from tracker_ros.models.trdimp.tracker import TrDiMPTracker
from tracker_ros.registry import empty_network
from tracker_ros.tracker import Tracker

BOXES = ((290.0, 200.0, 60.0, 80.0), (100.0, 100.0, 50.0, 60.0),
         (400.0, 300.0, 60.0, 70.0), (50.0, 300.0, 80.0, 60.0))  # fmt: skip
LATE_FRAME = 60
TRDIMP_FRAMES = 21


class Work(NamedTuple):
    """A piece of work to be timed.

    Attributes:
        name: Its kind.
        prepare: Brings the tracker into its initial state; not timed.
        run: Does the work.
    """

    name: str
    prepare: Callable[[], object]
    run: Callable[[], object]


def random_weights(name: str) -> dict[str, Tensor]:
    """Return random values of a sensible size for every key of a model, always the same."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for key, meta in empty_network(name).state_dict().items():
        if not meta.is_floating_point():
            state[key] = torch.zeros(meta.shape, dtype=meta.dtype)
        elif meta.dim() > 1:
            spread = 1.0 / math.sqrt(meta[0].numel())
            state[key] = torch.empty(meta.shape).uniform_(-spread, spread, generator=generator)
        else:
            state[key] = torch.full(meta.shape, 0.0 if key.endswith(("bias", "mean")) else 1.0)
    return state


def round_of_work(tracker: Tracker) -> Iterator[Work]:
    """Yield every kind of work of a tracker at least once; run each before taking the next."""
    height, width = (480, 854) if isinstance(tracker, MASTTracker) else (480, 640)
    image = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    if isinstance(tracker, OneStreamTracker):
        return _one_stream(tracker, image)
    if isinstance(tracker, TrDiMPTracker):
        return _trdimp(tracker, image)
    if isinstance(tracker, MASTTracker):
        return _mast(tracker, image)
    if isinstance(tracker, OpenCvTracker):
        return _opencv(tracker, image)
    raise TypeError(f"no work is defined for a {type(tracker).__name__}")


def _opencv(tracker: OpenCvTracker, image: np.ndarray) -> Iterator[Work]:
    for _ in range(3):
        yield Work(
            "1 target",
            lambda: tracker.initialize(image, BOXES[0]),
            lambda: tracker.track(image),
        )


def _one_stream(tracker: OneStreamTracker, image: np.ndarray) -> Iterator[Work]:
    trackers = [tracker, *(copy.copy(tracker) for _ in BOXES[1:])]
    for each, box in zip(trackers, BOXES, strict=True):
        each.initialize(image, box)
    for _ in range(3):
        for count in (1, len(BOXES)):
            some = trackers[:count]

            def back(some: list[OneStreamTracker] = some) -> None:
                for each, box in zip(some, BOXES, strict=False):
                    assert each.target is not None
                    each.target = replace(each.target, box=box, calm=False)

            def follow(some: list[OneStreamTracker] = some) -> None:
                track_batch(some, [image] * len(some))

            yield Work(f"{count} target{'s' if count > 1 else ''}", back, follow)


def _accept_every_frame(parameters: TrackingParameters) -> TrackingParameters:
    """Return thresholds that always find the target and no distractor, so that it updates."""
    return replace(
        parameters,
        target_not_found_threshold=-float("inf"),
        distractor_threshold=float("inf"),
        hard_negative_threshold=float("inf"),
    )


def _kind_of(frame: int, parameters: TrackingParameters) -> str:
    """Return the kind of work of a frame; frames count from 1, the first image."""
    memory = (frame - 1) % parameters.transformer_skipping == 0
    updates = parameters.net_opt_update_iter > 0
    learned = updates and (frame - 1) % parameters.train_skipping == 0
    if memory and learned:
        return "memory and filter"
    return "memory" if memory else "filter" if learned else "plain"


def _trdimp(tracker: TrDiMPTracker, image: np.ndarray) -> Iterator[Work]:
    tracker.parameters = _accept_every_frame(tracker.parameters)

    def nothing() -> None:
        """A frame begins where the last one ended."""

    def follow() -> None:
        tracker.track(image)
        tracker.update_model()

    yield Work("initialise", nothing, lambda: tracker.initialize(image, BOXES[0]))
    for frame in range(2, TRDIMP_FRAMES + 1):
        yield Work(_kind_of(frame, tracker.parameters), nothing, follow)


def _mast(tracker: MASTTracker, image: np.ndarray) -> Iterator[Work]:
    tracker.initialize(image, BOXES[0])
    for name, frame in (("one reference", 0), ("full memory", LATE_FRAME)):

        def advance(frame: int = frame) -> None:
            """Act as if `frame` were the last one, and all frames had been the first."""
            memory = tracker._memory
            assert memory is not None
            known = next(iter(memory.kept.values()))
            memory.frame = frame
            memory.kept = dict.fromkeys(frames_to_keep(frame, tracker.parameters), known)

        yield Work(name, advance, lambda: tracker.track(image))

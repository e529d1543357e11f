# SPDX-License-Identifier: Apache-2.0
"""Serve a tracker by the TraX protocol, so that the VOT toolkit and other clients can run it.

The protocol is that of Cehovin, "TraX: the visual tracking exchange protocol and library"
(Neurocomputing 2017); the package ``vot-trax`` speaks it on standard input and output.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracker_ros import DEFAULT_MODEL
from tracker_ros.cli.options import Command, add_model_options, model_arguments

if TYPE_CHECKING:
    import numpy as np

    from tracker_ros.following.target_set import FollowedTarget
    from tracker_ros.geometry import Box
    from tracker_ros.tracker import Tracker, TrackResult

Object = tuple[Any, dict[str, float]]
"""A region of TraX and its properties."""

_MASK_FAMILIES = ("mast",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("--model", default=DEFAULT_MODEL, help="model (default: %(default)s)")
    parser.add_argument("--weights", metavar="FILE", help="its safetensors file")
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    """Load the model, then answer the client until it quits."""
    try:
        import trax
        from trax.server import Server
    except ImportError as error:
        raise ImportError(
            f"this command needs the package that speaks TraX ({error}); pip install vot-trax"
        ) from error
    from tracker_ros.model_cards import family_of
    from tracker_ros.registry import create_tracker

    tracker = create_tracker(args.model, weights=args.weights, **model_arguments(args))
    tracker.warm_up()
    family = family_of(args.model).name
    formats = [trax.Region.RECTANGLE]
    if family in _MASK_FAMILIES:
        formats.append(trax.Region.MASK)
    session = TraxSession(tracker)
    with Server(
        formats, [trax.Image.PATH], tracker_name=args.model, tracker_family=family,
        tracker_description="tracker_ros", multiobject=True,
    ) as server:  # fmt: skip
        while (request := server.wait()).type != trax.TraxStatus.QUIT:
            path = request.image[trax.ImageChannel.COLOR].path()
            if request.type == trax.TraxStatus.INITIALIZE:
                answer = session.start(path, request.objects)
            else:
                answer = session.follow(path, request.objects or ())
            server.status(answer)
    return 0


class TraxSession:
    """The objects that a client follows: regions of TraX in, the same kind of regions out.

    The tracker follows the first object; the others get forks of it.
    """

    def __init__(self, tracker: Tracker) -> None:
        from tracker_ros.following.target_set import TargetSet

        self._targets = TargetSet(tracker=tracker)
        self._last: dict[str, Any] = {}

    def start(self, path: str, objects: Sequence[Object]) -> list[Object]:
        """Forget all objects, start on those given in an image file, and answer them.

        Raises ValueError if the image or an object cannot be used.
        """
        from tracker_ros.io.sources import read_image

        self._targets.clear()
        self._last.clear()
        return self._add(read_image(Path(path)), objects)

    def follow(self, path: str, new: Sequence[Object] = ()) -> list[Object]:
        """Find all objects in the next image file, start on new ones, and answer all.

        An object that could not be tracked is where it was last, with confidence 0. Raises
        ValueError if an image with new objects, or one of these, cannot be used.
        """
        from tracker_ros.io.sources import read_image
        from tracker_ros.tracker import TrackResult

        targets = list(self._targets)
        try:
            image = read_image(Path(path))
        except ValueError as error:
            if new:
                raise
            return [self._answer(target, error) for target in targets]
        outcomes = self._targets.track(image, targets) if targets else []
        answers = [self._answer(*pair) for pair in zip(targets, outcomes, strict=True)]
        for target, outcome in zip(targets, outcomes, strict=True):
            if isinstance(outcome, TrackResult):
                target.update_model(image, outcome)
        return answers + self._add(image, new)

    def _add(self, image: np.ndarray, objects: Sequence[Object]) -> list[Object]:
        """Start on further objects and answer them; masks of one image share no pixel.

        What is given has no confidence, as benchmarks expect it: it is no answer of the tracker.
        """
        from trax import Region

        masked = []
        for region, _ in objects:
            if region.type == Region.MASK:
                mask = mask_on_image(region, *image.shape[:2])
                start = functools.partial(_start_on_mask, image, mask)
            else:
                start = functools.partial(_start_on_box, image, region.bounds())
            target = self._targets.select(start, 0.0, append=True)
            self._last[target.target_id] = region
            if region.type == Region.MASK:
                masked.append(target.tracker)
        if len(masked) > 1:
            masked[0].join(masked[1:])
        return [(region, {}) for region, _ in objects]

    def _answer(self, target: FollowedTarget, outcome: TrackResult | Exception) -> Object:
        """Return region and confidence of one object."""
        from trax import Rectangle, Region

        region = self._last[target.target_id]
        if isinstance(outcome, Exception):
            print(f"tracker-ros trax: {outcome}", file=sys.stderr)
            return region, {"confidence": 0.0}
        if region.type == Region.MASK and outcome.mask is not None:
            region = mask_region(outcome.mask)
        else:
            region = Rectangle.create(*outcome.box)
        self._last[target.target_id] = region
        return region, {"confidence": outcome.score}


def _start_on_box(image: np.ndarray, box: Box, tracker: Tracker) -> None:
    tracker.initialize(image, box)


def _start_on_mask(image: np.ndarray, mask: np.ndarray, tracker: Tracker) -> None:
    tracker.initialize_mask(image, mask)


def mask_on_image(region: Any, height: int, width: int) -> np.ndarray:
    """Return a mask of TraX on an image of a size, (height, width) bool."""
    from tracker_ros.masks import placed_mask

    return placed_mask(region.array() > 0, region.offset(), height, width)


def mask_region(mask: np.ndarray) -> Any:
    """Return a mask (H, W) bool as one of TraX: the part with the object; a pixel of 0 if none."""
    import numpy as np
    from trax import Mask

    from tracker_ros.geometry import tight_box

    if not mask.any():
        return Mask.create(np.zeros((1, 1), np.uint8))
    x, y, w, h = (int(value) for value in tight_box(mask))
    # The library copies memory as it lies, so the part must be contiguous.
    part = np.ascontiguousarray(mask[y : y + h, x : x + w], np.uint8)
    return Mask.create(part, x, y)


TRAX = Command(
    "serve a tracker to the VOT toolkit by the TraX protocol",
    "Serve a tracker by the TraX protocol on standard input and output, as the VOT toolkit asks "
    "for it (docs/evaluation.md).",
    add_arguments,
    run,
)

# SPDX-License-Identifier: Apache-2.0
"""The whole tracker on the recorded video: each frame from the recorded box, then the run."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from golden_files import ONE_STREAM_TRAINED, Golden, document, golden
from one_stream_golden_network import config_of, golden_inference

from tracker_ros.crops import crop_square, hann_window, normalize
from tracker_ros.models.layers.center_head import HeadMaps
from tracker_ros.models.one_stream.config import DEFAULT_THRESHOLD, GRMConfig
from tracker_ros.models.one_stream.inference import GRMInference, OSTrackInference
from tracker_ros.models.one_stream.tracker import OneStreamTracker, find_peak

FRAME_TOLERANCE_PX = 0.01
RUN_TOLERANCE_PX = 0.05
DECIDED_RESPONSE = 1e-5
DECIDED_CUT = 2e-5
PLAIN_STEPS = 4

TRACKS = {name: golden(f"{name}_track.npz") for name in ONE_STREAM_TRAINED}

pytestmark = pytest.mark.slow
runs = pytest.mark.parametrize(
    ("name", "run"), [(name, run) for name, track in TRACKS.items() for run in track.meta["runs"]]
)
layouts = pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])


class Recorded(NamedTuple):
    """One run of the official tracker."""

    golden: Golden
    prefix: str
    start: list[float]
    images: np.ndarray

    def __getitem__(self, name: str) -> Any:
        return self.golden[self.prefix + name]

    def decided(self, step: int) -> bool:
        """Whether neither the peak nor a cut of this frame could go either way by rounding."""
        gap, margin = self["response_gap"][step], self["decision_margin"][step]
        return bool(gap > DECIDED_RESPONSE and margin > DECIDED_CUT)

    def steps(self, packed: bool) -> range:
        """Frames after the first, counted from 0; the plain layers follow the first few."""
        count = len(self.images) - 1
        return range(count if packed else min(count, PLAIN_STEPS))


def recorded(name: str, run: str) -> Recorded:
    track = TRACKS[name]
    facts = track.meta["runs"][run]
    prefix = "" if run == "main" else run
    images = golden(track.meta["video"])["frames_rgb"][: facts["frames"]]
    assert len(images) == len(track[prefix + "boxes_xywh"])
    return Recorded(track, prefix, facts["init_box_xywh"], images)


def make_model(name: str, run: str, packed: bool) -> OSTrackInference | GRMInference:
    """The model with the threshold of the run's data set, where it has one."""
    config, threshold = config_of(name), 0.0
    if isinstance(config, GRMConfig):
        choice = TRACKS[name].meta["runs"][run]["dataset_name"].lower()
        # As officially, a data set that is not listed gets the default.
        listed = choice in config.thresholds
        threshold = config.threshold_of(choice if listed else DEFAULT_THRESHOLD)
    return golden_inference(name, packed, threshold)


Known = dict[bytes, tuple[HeadMaps, list[int]]]


class Watched:
    """A model that remembers what it returned, and does not compute it twice.

    The whole run crops the same regions as the frames from recorded boxes, unless it goes astray.
    """

    def __init__(self, model: OSTrackInference | GRMInference, known: Known) -> None:
        self.model = model
        self.config, self.device = model.config, model.device
        self.maps: HeadMaps | None = None
        self.tokens: list[int] = []
        self._known = known

    def encode_template(self, template: torch.Tensor, box_xywh: torch.Tensor) -> Any:
        key = template.numpy().tobytes() + box_xywh.numpy().tobytes()
        return key, self.model.encode_template(template, box_xywh)

    def _tokens(self) -> list[int]:
        """Search tokens kept after each block, or those of the second category."""
        if isinstance(self.model, GRMInference):
            return self.model.token_mask()[0].sum(axis=(1, 2)).tolist()
        config = self.model.config
        kept = config.kept_tokens()
        return [kept[sum(c <= i for c in config.ce_layers)] for i in range(config.depth)]

    def locate(self, template: Any, search: torch.Tensor) -> HeadMaps:
        of_template, encoded = template
        key = hashlib.sha256(of_template + search.numpy().tobytes()).digest()
        if key not in self._known:
            self._known[key] = self.model.locate(encoded, search), self._tokens()
        self.maps, self.tokens = self._known[key]
        return self.maps


@cache
def known(name: str, run: str, packed: bool) -> Known:
    """What the model of a run has returned so far."""
    return {}


def watched_model(name: str, run: str, packed: bool) -> Watched:
    return Watched(make_model(name, run, packed), known(name, run, packed))


@pytest.mark.parametrize("name", ONE_STREAM_TRAINED)
def test_golden_is_of_the_same_weights(name: str) -> None:
    assert TRACKS[name].meta["seed"] == document(name)["seed"]


@runs
def test_template_crop(name: str, run: str) -> None:
    record, config = recorded(name, run), config_of(name)
    crop, _ = crop_square(
        record.images[0], record.start, config.template_factor, config.template_size
    )
    np.testing.assert_array_equal(crop, record["template_crop"])


@layouts
@runs
def test_each_frame_from_the_recorded_box(name: str, run: str, packed: bool) -> None:
    record, watched = recorded(name, run), watched_model(name, run, packed)
    tracker, config = OneStreamTracker(watched), watched.config
    tracker.initialize(record.images[0], record.start)
    np.testing.assert_array_equal(record.start, record["boxes_xywh"][0])
    window = hann_window(config.search_grid)
    for step in record.steps(packed):
        previous, image = record["boxes_xywh"][step], record.images[step + 1]
        crop, factor = crop_square(image, previous, config.search_factor, config.search_size)
        assert factor == pytest.approx(record["resize_factor"][step], rel=1e-9)
        search_mean = normalize(crop).mean(dtype=np.float64)
        assert search_mean == pytest.approx(record["search_tensor_mean"][step], abs=1e-5)

        assert tracker.target is not None
        tracker.target = replace(tracker.target, box=tuple(previous))
        result = tracker.track(image)
        if not record.decided(step):
            continue
        assert watched.tokens == record["tokens_kept"][step].tolist()
        assert watched.maps is not None
        score, size, offset = (m[0].numpy() for m in watched.maps)
        peak = find_peak(score[0], size, offset, window)
        assert peak.cell == record["response_argmax"][step]
        assert peak.response == pytest.approx(record["response_max"][step], abs=1e-5)
        assert score.max() == pytest.approx(record["score_map_max"][step], abs=1e-5)
        np.testing.assert_allclose(
            peak.box_cxcywh, record["network_box_cxcywh"][step], rtol=0, atol=1e-5
        )
        error = np.abs(np.subtract(result.box, record["boxes_xywh"][step + 1])).max()
        assert error <= FRAME_TOLERANCE_PX


@layouts
@runs
def test_whole_run(name: str, run: str, packed: bool) -> None:
    record = recorded(name, run)
    tracker = OneStreamTracker(watched_model(name, run, packed))
    tracker.initialize(record.images[0], record.start)
    for step in record.steps(packed):
        box = tracker.track(record.images[step + 1]).box
        wanted = record["boxes_xywh"][step + 1]
        if record.decided(step):
            assert np.abs(np.subtract(box, wanted)).max() <= RUN_TOLERANCE_PX
        else:
            assert tracker.target is not None
            tracker.target = replace(tracker.target, box=tuple(wanted))

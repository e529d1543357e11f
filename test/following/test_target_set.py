# SPDX-License-Identifier: Apache-2.0
"""Several targets with one network: ids, states, and the results of each target alone."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from small_networks import SMALL_GRM

from tracker_ros.checkpoints import write_weights
from tracker_ros.following.selection import SelectionCode, SelectionRefused
from tracker_ros.following.target_set import MAX_TARGETS, FollowedTarget, TargetSet
from tracker_ros.following.target_state import StateLimits, TargetState
from tracker_ros.models.one_stream.grm import GRMNetwork
from tracker_ros.models.one_stream.inference import GRMInference
from tracker_ros.models.one_stream.tracker import OneStreamTracker
from tracker_ros.registry import create_tracker, list_models, model_card
from tracker_ros.tracker import TrackResult

BOXES = ((20.0, 20.0, 40.0, 40.0), (100.0, 50.0, 40.0, 40.0))
EMBEDDED = [name for name in list_models() if model_card(name).weights]


def image(step: int) -> np.ndarray:
    """Two patches that move apart over a textured ground."""
    rng = np.random.default_rng(0)
    picture = rng.integers(60, 120, (120, 180, 3), dtype=np.uint8)
    for (x, y, w, h), direction in zip(BOXES, (-1, 1), strict=True):
        left, top = int(x) + direction * step, int(y)
        picture[top : top + int(h), left : left + int(w)] = rng.integers(
            0, 255, (int(h), int(w), 3), dtype=np.uint8
        )
    return picture


def grm(threshold: float = 0.0) -> OneStreamTracker:
    torch.manual_seed(0)
    network = GRMNetwork(SMALL_GRM).eval()
    return OneStreamTracker(
        GRMInference(network, torch.device("cpu"), threshold=threshold, packed=False)
    )


@pytest.fixture
def make(request, tmp_path, random_weights):
    """Makes the same tracker at every call."""
    name = request.param
    if name == "grm":
        return grm
    options = {}
    if not model_card(name).weights:
        write_weights(random_weights(name), tmp_path / "weights.safetensors")
        options = {"weights": tmp_path / "weights.safetensors", "working_size": 64}
    return lambda: create_tracker(name, device="cpu", backend="torch", **options)


def followed(tracker) -> TargetSet:
    targets = TargetSet(tracker=tracker)
    for box in BOXES:
        targets.select(lambda t, box=box: t.initialize(image(0), box), 0.0, append=True)
    return targets


@pytest.mark.parametrize("make", ["grm", "mast_resnet18", *EMBEDDED], indirect=True)
def test_each_target_gets_the_result_that_it_would_get_alone(make):
    targets, alone = followed(make()), [make(), make()]
    for tracker, box in zip(alone, BOXES, strict=True):
        tracker.initialize(image(0), box)
    first, second = (target.tracker for target in targets)
    assert first is not second
    assert first.model is second.model, "one copy of the weights"
    for step in range(1, 4):
        found = targets.track(image(step), list(targets))
        for target, result, tracker in zip(targets, found, alone, strict=True):
            wanted = tracker.track(image(step))
            assert isinstance(result, TrackResult)
            assert result.box == pytest.approx(wanted.box, abs=0.02)
            assert result.score == pytest.approx(wanted.score, abs=1e-3)
            assert result.verdict == wanted.verdict
            if wanted.mask is not None:
                assert (result.mask != wanted.mask).mean() < 1e-3
            assert np.array_equal(result.token_mask, wanted.token_mask)
            target.tracker.update_model()
            tracker.update_model()


@pytest.mark.parametrize("make", ["mast_resnet18"], indirect=True)
def test_mast_computes_the_features_of_an_image_once(make):
    targets = followed(make())
    model, asked = targets.tracker.model, []

    class Counting:
        def features(self, image):
            asked.append(image.shape)
            return model.features(image)

    for target in targets:
        target.tracker.model = Counting()
    assert all(isinstance(r, TrackResult) for r in targets.track(image(1), list(targets)))
    assert len(asked) == 1


@pytest.mark.parametrize("make", ["mast_resnet18", "ostrack_tiny"], indirect=True)
def test_one_target_that_fails_is_not_the_others_failure(make):
    tracker = make()
    broken = tracker.fork()
    first, last = targets = followed(tracker)
    between = FollowedTarget("9", "", broken, 0.0, StateLimits())
    first, failure, last = targets.track(image(1), [first, between, last])
    assert isinstance(failure, RuntimeError)
    assert "before initialize" in str(failure)
    assert isinstance(first, TrackResult)
    assert isinstance(last, TrackResult)


def test_ids_are_never_given_twice_and_order_is_that_of_selection():
    targets = followed(grm())
    targets.select(lambda tracker: None, 0.0)
    assert targets.ids == ("3",)
    targets.select(lambda tracker: None, 0.0, "cup", append=True)
    assert targets.ids == ("3", "4")
    assert [target.label for target in targets] == ["", "cup"]
    assert targets.remove("3")
    assert not targets.remove("3")
    targets.select(lambda tracker: None, 0.0, append=True)
    assert targets.ids == ("4", "5")
    assert list(targets)[1].tracker is targets.tracker, "it was free again"
    targets.clear()
    assert (len(targets), targets.state) == (0, TargetState.IDLE)


def test_a_start_that_fails_changes_nothing():
    targets = followed(grm())
    before = list(targets)

    def fail(tracker):
        raise ValueError("no")

    for append in (False, True):
        with pytest.raises(ValueError, match="no"):
            targets.select(fail, 0.0, append=append)
        assert list(targets) == before
    assert targets.select(lambda tracker: None, 0.0, append=True).target_id == "3"


def test_there_is_a_most_and_a_least():
    targets = TargetSet()
    with pytest.raises(RuntimeError, match="without a model"):
        targets.select(lambda tracker: None, 0.0)
    targets.tracker = grm()
    for _ in range(MAX_TARGETS):
        targets.select(lambda tracker: None, 0.0, append=True)
    with pytest.raises(SelectionRefused, match="16 targets") as refusal:
        targets.select(lambda tracker: None, 0.0, append=True)
    assert refusal.value.code is SelectionCode.TOO_MANY_TARGETS
    assert len({id(target.tracker) for target in targets}) == MAX_TARGETS
    targets.select(lambda tracker: None, 0.0)
    assert len(targets) == 1


def test_thresholds_hold_for_all_targets_and_those_to_come():
    targets = followed(grm())
    targets.set_limits(StateLimits(0.9, 0.8, 5.0))
    targets.select(lambda tracker: None, 0.0, append=True)
    assert [target.update(0.7, 1.0) for target in targets] == [TargetState.UNCERTAIN] * 3


def test_unloading_forgets_targets_and_model():
    targets = followed(grm())
    targets.unload()
    assert (targets.tracker, len(targets), targets.state) == (None, 0, TargetState.IDLE)


def test_ids_go_on_where_those_of_others_left_off():
    ids = itertools.count(1)
    first, second = TargetSet(ids=ids), TargetSet(ids=ids)
    given = []
    for targets in (first, second):
        targets.tracker = grm()
        given.append(targets.select(lambda tracker: None, 0.0).target_id)
    first.unload()
    assert len(set(given)) == 2
    assert (second.tracker is not None, len(second)) == (True, 1)

# SPDX-License-Identifier: Apache-2.0
"""Training of trackers that learn online, on a network small enough for tests."""

import copy
from dataclasses import replace

import pytest
import torch

from tracker_ros.training.losses import score_labels
from tracker_ros.training.recipe import Source
from tracker_ros.training.tasks import open_task
from tracker_ros.training.tasks.clip import ClipTask
from tracker_ros.training.trainer import refresh_batch_norm

from .conftest import CPU, RECIPES

RECIPE = RECIPES["clips"]


def task(**changes) -> ClipTask:
    """A seeded task."""
    torch.manual_seed(0)
    opened = open_task(replace(RECIPE, **changes))
    assert isinstance(opened, ClipTask)
    return opened


@pytest.fixture(scope="module")
def clips():
    """A batch of a few clips."""
    return ClipTask.open_source(Source(), RECIPE, CPU).batch(4, 1)


@pytest.fixture(scope="module")
def many_clips():
    """A batch of as many as validation takes at once."""
    return ClipTask.open_source(Source(), RECIPE, CPU).batch(ClipTask.validation_batch, 1)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_few_steps_on_one_batch_lower_its_loss(precision, clips):
    trained, batch = task(precision=precision), clips
    optimiser = torch.optim.AdamW(trained.groups(), 2e-3)
    found = {"classifier": [], "iou_branch": []}
    for _ in range(12):
        torch.manual_seed(5)  # the same proposals
        losses = trained(batch, 0)
        optimiser.zero_grad()
        losses["total"].backward()
        optimiser.step()
        for name, values in found.items():
            values.append(losses[name].item())
    for name, values in found.items():
        assert all(0 < value < float("inf") for value in values), name
        assert values[-1] < 0.8 * values[0], name


def test_gradients_reach_everything_that_tracking_uses(clips):
    trained = task()
    groups = {id(p) for group in trained.groups() for p in group["params"]}
    # Blocks start as the identity, which hides what is inside them for one step.
    for name, parameter in trained.network.named_parameters():
        if name.endswith("bn2.weight"):
            torch.nn.init.ones_(parameter)
    trained(clips, 0)["total"].backward()
    for name, parameter in trained.network.named_parameters():
        used = ".WV." not in name
        assert (id(parameter) in groups) == used, name
        assert (parameter.grad is not None and parameter.grad.abs().max() > 0) == used, name


def test_norms_biases_and_the_optimiser_s_maps_are_not_decayed():
    trained = task(weight_decay=0.5, backbone_multiplier=0.1)
    names = {id(p): name for name, p in trained.network.named_parameters()}
    for group in trained.groups():
        for parameter in group["params"]:
            name = names[id(parameter)]
            decayed = parameter.ndim > 1 and "filter_optimizer" not in name
            assert group["weight_decay"] == (0.5 if decayed else 0.0), name
            assert group["scale"] == (0.1 if name.startswith("feature_extractor") else 1.0), name


def test_the_optimiser_improves_on_the_pooled_filter_before_anything_is_learned(many_clips):
    losses = task(filter_iterations=5)(many_clips, 0)
    assert losses["last"] < 0.9 * losses["first"]


def test_a_batch_whose_targets_are_all_absent_trains_the_score_alone(clips):
    batch = clips
    present = batch.present.clone()
    present[:, 1:] = False
    losses = task()(replace(batch, present=present), 0)
    assert losses["iou_branch"] == 0
    losses["total"].backward()
    assert torch.isfinite(losses["total"])


def test_validation_finds_a_target_that_the_scores_show(monkeypatch, many_clips):
    trained = task()

    def perfect(features, _):
        size, learn = features.shape[-1] + 1, many_clips.train_crops
        config, side = trained.network.config, 96 / trained.tracking.search_area_scale
        return score_labels(
            many_clips.boxes[:, learn:],
            many_clips.present[:, learn:],
            size,
            side / config.stride,
            config.stride,
            config.filter_size,
        )

    monkeypatch.setattr("tracker_ros.training.tasks.clip.apply_filter", perfect)
    result = trained.validate(trained.network, [many_clips])
    assert result["centred"] == 1.0
    assert result["false_alarms"] == 0.0
    assert result["score_present"] > 0.7
    assert result["mean_iou"] > 0.3


def test_footage_without_labels_is_refused():
    with pytest.raises(ValueError, match="'footage' is unknown"):
        ClipTask.open_source(Source(kind="footage", path="/data"), RECIPE, CPU)


def test_refreshed_statistics_make_weaker_weights_answer_alike(clips):
    strong = task()
    refresh_batch_norm(strong, [clips], 0)
    weak = copy.deepcopy(strong)
    with torch.no_grad():
        weak.network.feature_extractor.conv1.weight.mul_(0.2)
    images = clips.images.flatten(0, 1)
    wanted = strong.network.feature_extractor(images).layer3
    assert not torch.allclose(weak.network.feature_extractor(images).layer3, wanted, atol=0.1)
    refresh_batch_norm(weak, [clips], 0)
    assert not weak.training
    assert torch.allclose(weak.network.feature_extractor(images).layer3, wanted, atol=1e-2)
    assert weak.network.feature_extractor.bn1.momentum == 0.1

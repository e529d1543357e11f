# SPDX-License-Identifier: Apache-2.0
"""Training of trackers that learn online, on a network small enough for tests."""

import copy
from dataclasses import replace

import pytest
import torch

from tracker_ros.checkpoints import read_weights
from tracker_ros.models.trdimp.config import TINY, TINY_TRACKING, TRDIMP_MODELS
from tracker_ros.training.card import read_log, write_card
from tracker_ros.training.recipe import Recipe, Source
from tracker_ros.training.sources import open_clips
from tracker_ros.training.tasks.clip import ClipTask
from tracker_ros.training.trainer import Trainer, refresh_batch_norm

CPU = torch.device("cpu")
MICRO = replace(TINY, width=8, feature_dim=16, key_dim=8, iou_reference_dim=8, iou_dim=16)
RECIPE = Recipe(
    model="trdimp_micro",
    steps=4,
    batch_size=4,
    learning_rate=1e-3,
    warmup_steps=1,
    decay_steps=1,
    gradient_clip=10.0,
    precision="fp32",
    loader_workers=0,
    validate_every=2,
    validation_samples=16,
    filter_iterations=2,
)


@pytest.fixture(autouse=True)
def micro(monkeypatch):
    """A model that trains in no time."""
    tracking = replace(TINY_TRACKING, image_sample_size=96)
    monkeypatch.setitem(TRDIMP_MODELS, "trdimp_micro", (MICRO, tracking))


def task(**changes) -> ClipTask:
    """A seeded task."""
    torch.manual_seed(0)
    return ClipTask(replace(RECIPE, **changes))


def clips(size=4, seed=1):
    """A batch of clips."""
    return open_clips(Source(), RECIPE, CPU).batch(size, seed)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_few_steps_on_one_batch_lower_its_loss(precision):
    trained, batch = task(precision=precision), clips()
    optimiser = torch.optim.AdamW(trained.groups(), 1e-3)
    found = {"classifier": [], "iou_branch": []}
    for _ in range(20):
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


def test_gradients_reach_everything_that_tracking_uses():
    trained = task()
    groups = {id(p) for group in trained.groups() for p in group["params"]}
    # Blocks start as the identity, which hides what is inside them for one step.
    for name, parameter in trained.network.named_parameters():
        if name.endswith("bn2.weight"):
            torch.nn.init.ones_(parameter)
    trained(clips(), 0)["total"].backward()
    for name, parameter in trained.network.named_parameters():
        used = ".WV." not in name
        assert (id(parameter) in groups) == used, name
        assert (parameter.grad is not None and parameter.grad.abs().max() > 0) == used, name


def test_the_optimiser_improves_on_the_pooled_filter_before_anything_is_learned():
    losses = task(filter_iterations=5)(clips(8), 0)
    assert losses["last"] < 0.9 * losses["first"]


def test_a_batch_whose_targets_are_all_absent_trains_the_score_alone():
    batch = clips()
    present = batch.present.clone()
    present[:, 1:] = False
    losses = task()(replace(batch, present=present), 0)
    assert losses["iou_branch"] == 0
    losses["total"].backward()
    assert torch.isfinite(losses["total"])


def test_validation_finds_a_target_that_the_scores_show(monkeypatch):
    trained, batch = task(), clips(16)
    sizes = {}

    def perfect(features, _):
        sizes["map"] = features.shape[-1] + 1
        shape = (*batch.present[:, batch.train_crops :].shape, sizes["map"], sizes["map"])
        boxes = batch.boxes[:, batch.train_crops :]
        present = batch.present[:, batch.train_crops :]
        labels = trained._labels(boxes, present, sizes["map"])
        assert labels.shape == shape
        return labels

    monkeypatch.setattr("tracker_ros.training.tasks.clip.apply_filter", perfect)
    result = trained.validate(trained.network, [batch])
    assert result["centred"] == 1.0
    assert result["false_alarms"] == 0.0
    assert result["score_present"] > 0.7
    assert result["mean_iou"] > 0.3


def test_a_resumed_run_ends_where_an_unbroken_one_ends(tmp_path):
    whole = Trainer(RECIPE, tmp_path / "whole", CPU)
    whole.run()
    first = Trainer(RECIPE, tmp_path / "broken", CPU)
    first.recipe = replace(RECIPE, steps=2, decay_steps=0)
    first.run()
    torch.manual_seed(123)  # a new process draws other numbers
    second = Trainer(RECIPE, tmp_path / "broken", CPU)
    assert second.step == 2
    resumed = second.run().state_dict()
    for name, value in whole.average.state_dict().items():
        assert torch.allclose(value.float(), resumed[name].float(), atol=1e-6), name
    assert [line["clips"] for line in read_log(tmp_path / "broken" / "log.jsonl")] == [8, 16]
    # The weights it writes start another run.
    weights = write_card(second.average, RECIPE, tmp_path / "micro.yaml", second.folder, second)
    begun = task(start_from=str(weights)).network.state_dict()
    assert all(torch.equal(begun[name], value) for name, value in read_weights(weights).items())


def test_other_sources_than_scenes_are_refused():
    with pytest.raises(ValueError, match="trdimp_micro trains on 'synthetic' clips alone"):
        open_clips(Source(kind="got10k", path="/data"), RECIPE, CPU)


def test_settled_statistics_make_weaker_weights_answer_alike():
    strong, batch = task(), clips(8)
    refresh_batch_norm(strong, [batch], 0)
    weak = copy.deepcopy(strong)
    with torch.no_grad():
        weak.network.feature_extractor.conv1.weight.mul_(0.2)
    images = batch.images.flatten(0, 1)
    wanted = strong.network.feature_extractor(images).layer3
    assert not torch.allclose(weak.network.feature_extractor(images).layer3, wanted, atol=0.1)
    refresh_batch_norm(weak, [batch], 0)
    assert not weak.training
    assert torch.allclose(weak.network.feature_extractor(images).layer3, wanted, atol=1e-2)
    assert weak.network.feature_extractor.bn1.momentum == 0.1

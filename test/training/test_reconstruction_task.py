# SPDX-License-Identifier: Apache-2.0
"""Self-supervised training of MAST, on a network small enough for tests."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from tracker_ros.checkpoints import read_weights
from tracker_ros.models.mast.config import MAST_MODELS, MASTConfig
from tracker_ros.models.mast.network import MASTNetwork, network_input
from tracker_ros.synthetic.footage import Footage
from tracker_ros.synthetic.moving_scenes import FrameConfig
from tracker_ros.training.card import read_log, write_card
from tracker_ros.training.recipe import Recipe, Source
from tracker_ros.training.sources import VALIDATION_FRAMES, open_frames
from tracker_ros.training.tasks.families import open_task
from tracker_ros.training.tasks.reconstruction import (
    ReconstructionTask,
    normalised_lab,
    propagate,
    region_similarities,
)
from tracker_ros.training.trainer import Trainer

CPU = torch.device("cpu")
RECIPE = Recipe(
    model="mast_micro",
    steps=4,
    batch_size=2,
    learning_rate=2e-3,
    warmup_steps=1,
    decay_steps=1,
    precision="fp32",
    loader_workers=0,
    validate_every=2,
    validation_samples=8,
    one_reference_steps=2,
    frames=FrameConfig(size=64, pan=1.0, speed=1.0),
)


@pytest.fixture(autouse=True)
def micro(monkeypatch):
    """A model that trains in no time."""
    config = MASTConfig(widths=(8, 8, 16, 16, 16), blocks=1, feature_dim=8)
    monkeypatch.setitem(MAST_MODELS, "mast_micro", (config, 64))


def task(**changes) -> ReconstructionTask:
    """A seeded task."""
    torch.manual_seed(0)
    opened = open_task(replace(RECIPE, **changes))
    assert isinstance(opened, ReconstructionTask)
    return opened


def runs(size=2, seed=1, validation=False):
    """A batch of drawn runs."""
    return open_frames(Source(), RECIPE, CPU, validation).batch(size, seed)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("step", [0, 2], ids=["one reference", "several"])
def test_a_few_steps_on_one_batch_lower_its_loss(precision, step):
    trained, batch = task(precision=precision), runs()
    optimiser = torch.optim.AdamW(trained.groups(), 3e-3)
    found = []
    for _ in range(25):
        torch.manual_seed(5)  # the same channel
        losses = trained(batch, step)
        optimiser.zero_grad()
        losses["total"].backward()
        optimiser.step()
        found.append(losses["total"].item())
    assert all(0 < value < float("inf") for value in found)
    assert found[-1] < 0.8 * found[0]


@pytest.mark.parametrize("step", [0, 2])
def test_gradients_reach_every_parameter(step):
    trained = task()
    groups = {id(p) for group in trained.groups() for p in group["params"]}
    trained(runs(), step)["total"].backward()
    for name, parameter in trained.network.named_parameters():
        assert id(parameter) in groups, name
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_the_first_stage_pairs_neighbours_and_the_second_looks_at_all(monkeypatch):
    trained, batch, seen = task(), runs(), []
    monkeypatch.setattr(
        trained, "_loss", lambda _, references, target, channel: seen.append((references, target))
    )
    trained(batch, 1), trained(batch, 2)
    frames = normalised_lab(batch.images)
    ((before,), after), (earlier, last) = seen
    assert torch.equal(
        before, torch.stack([frames[0, 0], frames[0, 2], frames[1, 0], frames[1, 2]])
    )
    assert torch.equal(
        after, torch.stack([frames[0, 1], frames[0, 3], frames[1, 1], frames[1, 3]])
    )
    assert torch.equal(torch.stack(earlier, 1), frames[:, :3])
    assert torch.equal(last, frames[:, 3])


def test_either_colour_is_hidden_by_the_loops_seed(monkeypatch):
    trained, hidden = task(), []
    monkeypatch.setattr(
        trained, "_loss", lambda network, references, target, channel: hidden.append(channel)
    )
    for seed in [*range(12), 3]:
        torch.manual_seed(seed)
        trained(runs(), 0)
    assert set(hidden) == {1, 2}
    assert hidden[3] == hidden[-1]


def test_the_hidden_colour_does_not_reach_the_features(monkeypatch):
    trained = task().eval()
    frames = normalised_lab(runs().images)
    seen = []
    whole = MASTNetwork.forward
    monkeypatch.setattr(
        MASTNetwork, "forward", lambda self, x: (seen.append(x.clone()), whole(self, x))[1]
    )
    trained._loss(trained.network, [frames[:, 0]], frames[:, 1], 2)
    assert len(seen) == 2
    assert all((x[:, 2] == 0).all() and (x[:, :2] != 0).any() for x in seen)


def test_still_masks_stay_where_they_are():
    class Place(torch.nn.Module):
        """Features of which only those of the same cell are alike."""

        config = MASTConfig()

        def forward(self, images):
            place = torch.arange(16.0)
            cells = torch.stack(torch.meshgrid(place, place, indexing="ij"))
            features = torch.cat([cells.cos(), cells.sin()]) * 40
            return features.expand(len(images), -1, -1, -1)

    labels = torch.zeros(2, 64, 64, dtype=torch.int64)
    labels[:, 16:41, 20:45] = 1
    found = propagate(Place(), torch.zeros(2, 4, 3, 64, 64), labels)
    values = region_similarities(found, labels[:, None].expand(-1, 4, -1, -1))
    assert len(values) == 6
    assert values.min() > 0.85  # what cells of four pixels cost
    assert torch.equal(found[:, 1], found[:, 3])


def test_region_similarity_is_of_each_object_in_later_frames():
    truth = torch.zeros(1, 3, 32, 32, dtype=torch.int64)
    truth[0, :, :16, :16], truth[0, :, 20:30, 20:30], truth[0, :, 30:, :2] = 1, 2, 3
    truth[0, 1:, :16, 20:30] = 4
    found = truth.clone()
    found[0, 1, :8, :16] = 0  # half of the first object is missed
    found[0, 2, 20:30, 20:30] = 1  # the second is taken for the first
    values = region_similarities(found, truth)
    # The third object is too small to be judged, the fourth not there to begin with.
    assert values.tolist() == pytest.approx([0.5, 256 / 356, 1.0, 0.0])


def test_lab_for_training_is_nearly_that_of_tracking():
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    image[:10] //= 20  # dark, where the curves are straight
    found = normalised_lab(torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255)
    assert np.abs(found.numpy() - network_input(image)).max() < 0.005


def test_a_resumed_run_ends_where_an_unbroken_one_ends(tmp_path):
    whole = Trainer(RECIPE, tmp_path / "whole", CPU)
    whole.run()
    first = Trainer(RECIPE, tmp_path / "broken", CPU)
    first.recipe = replace(RECIPE, steps=2, decay_steps=0)
    first.run()
    torch.manual_seed(123)  # a new process draws other numbers
    second = Trainer(RECIPE, tmp_path / "broken", CPU)
    resumed = second.run().state_dict()
    for name, value in whole.average.state_dict().items():
        assert torch.allclose(value.float(), resumed[name].float(), atol=1e-6), name
    lines = read_log(tmp_path / "broken" / "log.jsonl")
    assert [line["runs"] for line in lines] == [4, 8]
    assert all(0 <= line["region"] <= 1 < line["reconstruction"] * 100 for line in lines)
    # The weights it writes start another run, and its card has the figures of this family.
    weights = write_card(second.average, RECIPE, tmp_path / "micro.yaml", second.folder, second)
    begun = task(start_from=str(weights)).network.state_dict()
    assert all(torch.equal(begun[name], value) for name, value in read_weights(weights).items())
    card = json.loads(weights.with_suffix(".json").read_text())
    assert set(card["validation"]) == {"region", "reconstruction"}
    assert card["runs"] == 8


def test_footage_is_mixed_in_and_cannot_validate(tmp_path):
    scene = np.random.default_rng(0).integers(0, 256, (9, 80, 80, 3), np.uint8)
    Footage((scene,)).save(tmp_path / "clips.npz")
    footage = Source(kind="footage", path=str(tmp_path / "clips.npz"))
    batch = open_frames(footage, RECIPE, CPU).batch(3, 1)
    assert batch.images.shape == (3, 4, 3, 64, 64)
    assert torch.isfinite(task()(batch, 3)["total"])
    with pytest.raises(ValueError, match="first source is footage, without labels"):
        open_frames(footage, RECIPE, CPU, True)
    with pytest.raises(ValueError, match="'got10k': mast_micro trains on 'synthetic' scenes and"):
        open_frames(Source(kind="got10k", path="/data"), RECIPE, CPU)


def test_validation_runs_are_longer_and_of_other_pictures():
    held_out, known = runs(validation=True), open_frames(Source(), RECIPE, CPU)
    assert held_out.images.shape[1] == VALIDATION_FRAMES > RECIPE.frames.frames
    assert len(known.tiles) > 1
    assert known.batch(1, 1).images.shape[1] == RECIPE.frames.frames

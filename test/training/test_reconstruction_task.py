# SPDX-License-Identifier: Apache-2.0
"""Self-supervised training of MAST, on a network small enough for tests."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tracker_ros.models.mast.config import MASTConfig
from tracker_ros.models.mast.images import network_input
from tracker_ros.models.mast.network import MASTNetwork
from tracker_ros.synthetic.footage import Footage
from tracker_ros.training.recipe import Source
from tracker_ros.training.tasks import open_task
from tracker_ros.training.tasks.reconstruction import (
    VALIDATION_FRAMES,
    ReconstructionTask,
    normalised_lab,
    propagate,
    reconstruct,
    region_similarities,
)

from .conftest import CPU, RECIPES

RECIPE = RECIPES["runs"]
TASK = "tracker_ros.training.tasks.reconstruction"


def task(**changes) -> ReconstructionTask:
    """A seeded task."""
    torch.manual_seed(0)
    opened = open_task(replace(RECIPE, **changes))
    assert isinstance(opened, ReconstructionTask)
    return opened


def runs(size=2, seed=1, validation=False):
    """A batch of drawn runs."""
    return ReconstructionTask.open_source(Source(), RECIPE, CPU, validation).batch(size, seed)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("step", [0, 2], ids=["one reference", "several"])
def test_a_few_steps_on_one_batch_lower_its_loss(precision, step):
    trained, batch = task(precision=precision), runs()
    optimiser = torch.optim.AdamW(trained.groups(), 5e-3)
    found = []
    for _ in range(15):
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


@pytest.fixture
def reconstructed(monkeypatch):
    """References, target and hidden channel of every reconstruction, which is left out."""
    seen = []

    def instead(network, references, target, channel, half, far_gap=0):
        seen.append((references, target, channel))
        return target.new_zeros(len(target), 1, 16, 16)

    monkeypatch.setattr(f"{TASK}.reconstruct", instead)
    return seen


def test_the_first_stage_pairs_neighbours_and_the_second_looks_at_all(reconstructed):
    trained, batch = task(), runs()
    trained(batch, 1), trained(batch, 2)
    frames = normalised_lab(batch.images)
    ((before,), after, _), (earlier, last, _) = reconstructed
    assert torch.equal(
        before, torch.stack([frames[0, 0], frames[0, 2], frames[1, 0], frames[1, 2]])
    )
    assert torch.equal(
        after, torch.stack([frames[0, 1], frames[0, 3], frames[1, 1], frames[1, 3]])
    )
    assert torch.equal(torch.stack(earlier, 1), frames[:, :3])
    assert torch.equal(last, frames[:, 3])


def test_either_colour_is_hidden_by_the_step_s_seed(reconstructed):
    trained, batch = task(), runs()
    for seed in [*range(12), 3]:
        torch.manual_seed(seed)
        trained(batch, 0)
    hidden = [channel for _, _, channel in reconstructed]
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
    reconstruct(trained.network, [frames[:, 0]], frames[:, 1], 2)
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


def test_footage_is_mixed_in_and_cannot_validate(tmp_path):
    scene = np.random.default_rng(0).integers(0, 256, (9, 80, 80, 3), np.uint8)
    Footage((scene,)).save(tmp_path / "clips.npz")
    footage = Source(kind="footage", path=str(tmp_path / "clips.npz"))
    batch = ReconstructionTask.open_source(footage, RECIPE, CPU).batch(3, 1)
    assert batch.images.shape == (3, 4, 3, 64, 64)
    assert torch.isfinite(task()(batch, 3)["total"])
    with pytest.raises(ValueError, match="first source validates and is footage"):
        ReconstructionTask.open_source(footage, RECIPE, CPU, True)
    with pytest.raises(
        ValueError, match="'got10k': mast_micro trains on 'synthetic' scenes, 'footage' and"
    ):
        ReconstructionTask.open_source(Source(kind="got10k", path="/data"), RECIPE, CPU)


def test_validation_runs_are_longer_and_of_other_pictures():
    held_out, known = runs(validation=True), ReconstructionTask.open_source(Source(), RECIPE, CPU)
    assert held_out.images.shape[1] == VALIDATION_FRAMES > RECIPE.frames.frames
    assert len(known.tiles) > 1
    assert known.batch(1, 1).images.shape[1] == RECIPE.frames.frames

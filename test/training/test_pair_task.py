# SPDX-License-Identifier: Apache-2.0
"""Training of one-stream trackers: how they start, and the loss with and without a target."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from tracker_ros.crops import normalize_tensor
from tracker_ros.model_cards import embedded_file
from tracker_ros.models.one_stream.config import OSTRACK_TINY
from tracker_ros.models.one_stream.grm import Division
from tracker_ros.training.initialisation import begin_from_weights
from tracker_ros.training.recipe import Source
from tracker_ros.training.tasks import open_task
from tracker_ros.training.tasks.pair import boxes_at, pair_losses

from .conftest import CPU, SHORT

GRID = 8
OSTRACK, GRM = replace(SHORT, model="ostrack_micro"), replace(SHORT, model="grm_micro")


def prediction(batch=2):
    """Maps of a network that sees nothing and guesses one size everywhere."""
    return {
        "score_map": torch.full((batch, 1, GRID, GRID), 0.1, requires_grad=True),
        "size_map": torch.full((batch, 2, GRID, GRID), 0.25, requires_grad=True),
        "offset_map": torch.zeros(batch, 2, GRID, GRID, requires_grad=True),
    }


def batch_of(recipe, size=4):
    """A batch of pairs for a recipe's model."""
    return open_task(recipe).open_source(Source(), recipe, CPU).batch(size, 1)


def test_boxes_are_read_at_column_and_row():
    maps = {"size_map": torch.rand(1, 2, GRID, GRID), "offset_map": torch.rand(1, 2, GRID, GRID)}
    box = boxes_at(maps, torch.tensor([[5, 2]]))[0]
    assert box[0] == (5 + maps["offset_map"][0, 0, 2, 5]) / GRID
    assert box[1] == (2 + maps["offset_map"][0, 1, 2, 5]) / GRID
    assert box[2] == maps["size_map"][0, 0, 2, 5]


def test_an_absent_target_trains_the_score_alone():
    maps = prediction()
    boxes = torch.tensor([[0.4, 0.4, 0.2, 0.2]] * 2)
    pair_losses(maps, boxes, torch.tensor([False, False]))["total"].backward()
    assert (maps["score_map"].grad > 0).all()  # every cell is pushed down
    assert maps["size_map"].grad is None or maps["size_map"].grad.abs().max() == 0


def test_a_present_target_pulls_up_its_own_cell_only():
    maps = prediction(1)
    boxes = torch.tensor([[0.375, 0.25, 0.25, 0.25]])  # centre at column 4, row 3
    pair_losses(maps, boxes, torch.tensor([True]))["total"].backward()
    gradient = maps["score_map"].grad[0, 0]
    assert gradient[3, 4] < 0
    gradient[3, 4] = 1
    assert (gradient >= 0).all()
    reached = maps["size_map"].grad[0].abs().sum(0) > 0
    assert reached.sum() in (0, 1, 2)


def test_a_perfect_box_costs_nothing_at_its_own_cell():
    maps = prediction(1)
    boxes = torch.tensor([[0.375, 0.25, 0.25, 0.25]])
    with torch.no_grad():
        columns = torch.arange(GRID).float()
        maps["offset_map"][0, 0] = 4 - columns
        maps["offset_map"][0, 1] = (3 - columns)[:, None]
    losses = pair_losses(maps, boxes, torch.tensor([True]))
    assert losses["giou"].item() == pytest.approx(0, abs=1e-6)
    assert losses["iou"].item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("recipe", [OSTRACK, GRM], ids=lambda recipe: recipe.model)
def test_a_few_steps_on_one_batch_lower_its_loss(recipe):
    torch.manual_seed(0)
    task, batch = open_task(recipe), batch_of(recipe)
    before = {name: value.clone() for name, value in task.network.state_dict().items()}
    optimiser = torch.optim.AdamW(task.groups(), 3e-3)
    losses = []
    for step in range(12):
        total = task.train()(batch, step)["total"]
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        losses.append(total.item())
    assert losses[-1] < 0.8 * losses[0]
    # Of GRM, the networks that divide its tokens learn too.
    for name, value in task.network.state_dict().items():
        assert "divide" not in name or not torch.equal(value, before[name]), name


def test_attention_starts_as_matching_and_template_tokens_start_marked():
    backbone = open_task(replace(SHORT, model="ostrack_tiny")).network.backbone
    weight, width = backbone.blocks[0].attn.qkv.weight, OSTRACK_TINY.embed_dim
    assert torch.equal(weight[:width], weight[width : 2 * width])
    assert not torch.equal(weight[:width], weight[2 * width :])
    inside, outside = backbone.target_mark
    assert min((inside - outside).norm(), inside.norm(), outside.norm()) > 3


def test_grm_starts_from_ostrack_s_weights_with_its_divisions_open():
    recipe = replace(SHORT, model="grm_tiny", start_from="ostrack_tiny")
    task = open_task(recipe)
    begun = task.network.state_dict()
    for name, value in load_file(embedded_file("ostrack_tiny.safetensors")).items():
        assert torch.equal(begun[name], value.float()), name
    batch = batch_of(recipe, 2)
    with torch.no_grad():
        backbone = task.network.eval().backbone
        _, divisions = backbone(
            backbone.embed_template(normalize_tensor(batch.template), batch.template_boxes),
            backbone.embed_search(normalize_tensor(batch.search)),
        )
    assert len(divisions) == 3
    for division in divisions:
        assert isinstance(division, Division)
        assert division.category[..., 1].mean() > 0.9


def test_weights_that_lack_a_block_are_refused(tmp_path):
    known = load_file(embedded_file("ostrack_tiny.safetensors"))
    lacking = {k: v for k, v in known.items() if "blocks.2.mlp.fc1" not in k}
    save_file(lacking, tmp_path / "lacking.safetensors")
    network = open_task(replace(SHORT, model="grm_tiny")).network
    with pytest.raises(ValueError, match=r"missing \(backbone.blocks.2.mlp.fc1"):
        begin_from_weights(network, tmp_path / "lacking.safetensors")


def test_the_share_of_tokens_compared_with_the_template_is_held():
    batch = batch_of(GRM)
    assert "share" not in open_task(GRM).train()(batch, 0)
    torch.manual_seed(0)
    held = open_task(replace(GRM, meeting_share=0.4)).train()(batch, 0)
    # Two divisions, each of which opens for e / (1 + e) of the tokens at first.
    assert held["share"].item() == pytest.approx(2 * (0.731 - 0.4) ** 2, abs=0.05)
    of_boxes = 2 * held["giou"] + 5 * held["l1"] + held["focal"]
    assert held["total"].item() == pytest.approx((of_boxes + held["share"]).item(), abs=1e-4)

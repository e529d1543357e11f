# SPDX-License-Identifier: Apache-2.0
"""The loss of pairs with and without a target."""

import pytest
import torch

from tracker_ros.training.tasks.pair import boxes_at, pair_losses

GRID = 8


def prediction(batch=2):
    """Maps of a network that sees nothing and guesses one size everywhere."""
    return {
        "score_map": torch.full((batch, 1, GRID, GRID), 0.1, requires_grad=True),
        "size_map": torch.full((batch, 2, GRID, GRID), 0.25, requires_grad=True),
        "offset_map": torch.zeros(batch, 2, GRID, GRID, requires_grad=True),
    }


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

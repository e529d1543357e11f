# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch

from tracker_ros.models.one_stream.candidate_elimination import (
    eliminate,
    keep_count,
    rank_search_tokens,
    ranking_rows,
    restore_raster,
    row_attention,
    template_token_mask,
)
from tracker_ros.models.one_stream.ostrack import EliminatingBlock

CPU = torch.device("cpu")


def test_keep_count_rounds_up() -> None:
    assert [keep_count(n, 0.7) for n in (256, 180, 126, 1)] == [180, 126, 89, 1]


def test_unknown_range_is_named() -> None:
    with pytest.raises(ValueError, match="'CORNER' is unknown; expected ALL, CTR_POINT"):
        template_token_mask("CORNER", torch.zeros(1, 4), 64)


def test_box_mask_covers_the_tokens_under_the_box() -> None:
    boxes = torch.tensor([[0.25, 0.5, 0.25, 0.5]])
    mask = template_token_mask("GT_BOX", boxes, 64)
    assert mask is not None
    assert mask.view(4, 4).nonzero().tolist() == [[2, 1], [3, 1]]


def test_rows_of_samples_that_choose_different_numbers() -> None:
    mask = torch.tensor([[True, False, True, False], [False, True, False, False]])
    rows = ranking_rows(mask, 2, 4, CPU)
    assert rows.position[0].tolist() == [0, 2]
    assert rows.position[1, 0].item() == 1
    assert rows.weight.tolist() == [[0.5, 0.5], [1.0, 0.0]]


def test_a_sample_that_chooses_nothing_uses_all_rows() -> None:
    mask = torch.tensor([[False, False], [True, False]])
    rows = ranking_rows(mask, 2, 2, CPU)
    assert rows.weight.tolist() == [[0.5, 0.5], [1.0, 0.0]]
    assert sorted(rows.position[0].tolist()) == [0, 1]


def test_attention_of_rows_is_softmax_of_scaled_products() -> None:
    query, key = torch.rand(1, 2, 3, 4), torch.rand(1, 2, 5, 4)
    wanted = (query @ key.transpose(-2, -1) / 2.0).softmax(dim=-1)
    torch.testing.assert_close(row_attention(query, key), wanted)


def test_rank_is_the_weighted_mean_over_rows_then_heads() -> None:
    attention = torch.rand(1, 2, 3, 5)
    weight = torch.tensor([[0.5, 0.5, 0.0]])
    found = rank_search_tokens(attention, weight, num_template=2)
    wanted = attention[:, :, :2, 2:].mean(dim=2).mean(dim=1)
    torch.testing.assert_close(found, wanted)


def test_elimination_keeps_the_highest() -> None:
    step = eliminate(torch.tensor([[0.1, 0.4, 0.3, 0.2]]), keep=2)
    assert step.kept.tolist() == [[1, 2]]
    assert step.removed.tolist() == [[3, 0]]


def test_restored_tokens_stand_in_their_places_and_the_rest_is_zero() -> None:
    tokens = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    raster = restore_raster(tokens, torch.tensor([[3, 0]]), count=4)
    assert raster.tolist() == [[[3.0, 4.0], [0.0, 0.0], [0.0, 0.0], [1.0, 2.0]]]


def test_eliminating_block_agrees_with_the_plain_one_on_what_it_keeps() -> None:
    torch.manual_seed(0)
    block = EliminatingBlock(embed_dim=12, num_heads=3, mlp_ratio=2.0, layer_norm_eps=1e-6)
    tokens = torch.rand(2, 10, 12)
    found, step = block.forward_eliminating(tokens, 4, ranking_rows(None, 2, 4, CPU), 0.5)
    assert found.shape == (2, 4 + 3, 12)
    every = block(tokens)
    for b in range(2):
        places = [0, 1, 2, 3, *(4 + step.kept[b]).tolist()]
        torch.testing.assert_close(found[b], every[b, places])
        assert sorted([*step.kept[b].tolist(), *step.removed[b].tolist()]) == list(range(6))

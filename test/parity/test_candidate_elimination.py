# SPDX-License-Identifier: Apache-2.0
"""Template masks, elimination and the keep-rate schedule in isolation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from golden_files import golden

from tracker_ros.models.layers.vit import gather_tokens
from tracker_ros.models.one_stream.candidate_elimination import (
    eliminate,
    keep_count,
    rank_search_tokens,
    ranking_rows,
    template_token_mask,
)
from tracker_ros.training.tasks.pair import keep_rate_at

GOLDEN = golden("ostrack_units.npz")
MASKS = [name for name in GOLDEN.arrays if name.startswith("mask/")]
WITHOUT_MASK = [name for name, value in GOLDEN.meta.items() if value == "None"]
ELIMINATIONS = [name for name in GOLDEN.meta if name.startswith("elim_")]


@pytest.mark.parametrize("name", MASKS)
def test_template_mask(name: str) -> None:
    key = name.removeprefix("mask/")
    template_range, size = key.rsplit("_", 1)
    wanted, (_, tokens) = GOLDEN[name], GOLDEN.meta[key]
    if wanted.dtype == np.uint8:
        wanted = np.unpackbits(wanted, axis=1)[:, :tokens].astype(bool)
    boxes = torch.from_numpy(GOLDEN["mask_boxes_xywh"])
    np.testing.assert_array_equal(template_token_mask(template_range, boxes, int(size)), wanted)


@pytest.mark.parametrize("name", WITHOUT_MASK)
def test_all_tokens_need_no_mask(name: str) -> None:
    template_range, size = name.rsplit("_", 1)
    boxes = torch.from_numpy(GOLDEN["mask_boxes_xywh"])
    assert template_token_mask(template_range, boxes, int(size)) is None


@pytest.mark.parametrize("masked", [True, False], ids=["mask", "all"])
@pytest.mark.parametrize("name", ELIMINATIONS)
def test_elimination(name: str, masked: bool) -> None:
    facts, case = GOLDEN.meta[name], f"elim/{name.removeprefix('elim_')}"
    num_template = facts["lens_t"]
    attention = torch.from_numpy(GOLDEN[f"{case}_attn"])
    tokens = torch.from_numpy(GOLDEN[f"{case}_tokens_in"])
    index = torch.from_numpy(GOLDEN[f"{case}_index"])
    mask = torch.from_numpy(GOLDEN[f"{case}_template_mask"]) if masked else None
    case = f"{case}_{'mask' if masked else 'all'}"

    batch, heads, total, _ = attention.shape
    rows = ranking_rows(mask, batch, num_template, tokens.device)
    place = rows.position[:, None, :, None].expand(-1, heads, -1, total)
    rank = rank_search_tokens(attention.gather(2, place), rows.weight, num_template)
    step = eliminate(rank, keep_count(rank.shape[1], facts["keep_ratio"]))

    kept, removed = index.gather(1, step.kept).numpy(), index.gather(1, step.removed).numpy()
    wanted_kept = GOLDEN[f"{case}_kept"]
    wanted_removed = GOLDEN[f"{case}_removed"].reshape(batch, -1)
    found_tokens = gather_tokens(tokens[:, num_template:], step.kept).numpy()
    wanted_tokens = GOLDEN[f"{case}_tokens"]
    np.testing.assert_array_equal(tokens[:, :num_template], wanted_tokens[:, :num_template])
    np.testing.assert_array_equal(np.sort(kept), np.sort(wanted_kept))
    np.testing.assert_array_equal(np.sort(removed), np.sort(wanted_removed))
    for b in range(batch):
        np.testing.assert_array_equal(
            found_tokens[b][np.argsort(kept[b])],
            wanted_tokens[b, num_template:][np.argsort(wanted_kept[b])],
        )


def test_keep_rate_schedule() -> None:
    found = [keep_rate_at(int(epoch)) for epoch in GOLDEN["keep_rate_epoch"]]
    np.testing.assert_allclose(found, GOLDEN["keep_rate_ce256"], rtol=1e-9)

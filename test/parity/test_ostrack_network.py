# SPDX-License-Identifier: Apache-2.0
"""One forward of the official OSTrack, stage by stage; see also `test_one_stream_network.py`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from golden_files import OSTRACK_GOLDENS, Golden, document, golden
from one_stream_golden_network import (
    FEATURE_TOLERANCE,
    MAP_TOLERANCE,
    NETWORK_FILES,
    backbone_outputs,
    changed_weights,
    check_features,
    check_maps,
    difference,
    golden_mask,
    golden_network,
    inputs,
    leaving_blocks,
    scaled,
)
from torch import Tensor

from tracker_ros.models.one_stream.candidate_elimination import Elimination, ranking_rows
from tracker_ros.models.one_stream.config import OSTRACK_CONFIGS
from tracker_ros.models.one_stream.ostrack import BackboneOutput, OSTrackNetwork

DECIDED_GAP = 1e-5
MAX_LAYERS = 64

pytestmark = pytest.mark.slow
configurations = pytest.mark.parametrize("name", list(OSTRACK_GOLDENS))

# Variant -> (template range, keep rate); the rest as configured. Read where the golden has it.
VARIANTS: dict[str, tuple[str, float | None]] = {
    "all": ("ALL", None),
    "ctr_rec": ("CTR_REC", None),
    "gt_box": ("GT_BOX", None),
    "rate085": ("CTR_POINT", 0.85),
    "rate1": ("CTR_POINT", 1.0),
}


def variants(known: Any) -> list[tuple[str, str]]:
    return [
        (name, variant)
        for name in OSTRACK_GOLDENS
        for variant in known
        if f"{variant}_score_map" in golden(NETWORK_FILES[name])
    ]


def run_backbone(
    network: OSTrackNetwork,
    template: Tensor,
    search: Tensor,
    mask: Tensor | None,
    keep_rate: float | None = None,
) -> BackboneOutput:
    """Every token through every block."""
    backbone, batch = network.backbone, template.shape[0]
    z, x = backbone.embed_template(template), backbone.embed_search(search)
    rows = ranking_rows(mask, batch, z.shape[1], z.device)
    return backbone(z, x, rows, keep_rate, with_template=True)


def check_eliminations(found: dict[int, Elimination], g: Golden, prefix: str = "") -> None:
    """The layers that eliminate, and their kept and removed sets wherever the cut is decided."""
    recorded = [i for i in range(MAX_LAYERS) if f"{prefix}ce{i}_kept" in g]
    assert list(found) == recorded
    for layer, elimination in found.items():
        kept, removed = g[f"{prefix}ce{layer}_kept"], g.arrays.get(f"{prefix}ce{layer}_removed")
        gaps = g.arrays.get(f"{prefix}ce{layer}_cut_gap_rel", np.ones(len(kept)))
        for b in range(len(kept)):
            if gaps[b] <= DECIDED_GAP:
                continue
            assert set(elimination.kept[b].tolist()) == set(kept[b].tolist())
            if removed is not None:
                assert set(elimination.removed[b].tolist()) == set(removed[b].tolist())


@configurations
def test_elimination_is_configured_as_officially(name: str) -> None:
    official, config = document(name)["inference"], OSTRACK_CONFIGS[OSTRACK_GOLDENS[name]]
    assert list(config.ce_layers) == official["ce_loc"]
    assert [config.ce_keep_ratio] * len(config.ce_layers) == official["ce_keep_ratio"]
    assert config.ce_template_range == official["ce_template_range"]


@configurations
@torch.inference_mode()
def test_backbone_features_blocks_and_eliminations(name: str) -> None:
    g, network = golden(NETWORK_FILES[name]), golden_network(name)
    config = network.config
    template, search = inputs(name)
    batch, num_template = template.shape[0], config.template_grid**2
    total = num_template + config.search_grid**2
    mask = golden_mask(name, config.ce_template_range, batch)
    if mask is not None:
        np.testing.assert_array_equal(mask, g["ce_template_mask"])

    with leaving_blocks(network) as leaving:
        output = run_backbone(network, template, search, mask)

    position = torch.arange(config.search_grid**2).expand(batch, -1)
    blocks = np.full((batch, config.depth, total, config.embed_dim), np.nan, dtype=np.float32)
    for layer, tokens in enumerate(leaving):
        if layer in output.eliminations:
            position = output.eliminations[layer].kept
        for b in range(batch):
            places = np.concatenate([np.arange(num_template), num_template + position[b].numpy()])
            blocks[b, layer, places] = tokens[b].numpy()
    assert difference(blocks[:, :, ::16, ::32], g["block_sub"]) <= FEATURE_TOLERANCE
    assert difference(blocks.mean(axis=-1), g["block_token_mean"]) <= FEATURE_TOLERANCE

    features = np.zeros((batch, total, config.embed_dim), dtype=np.float32)
    assert output.template is not None
    features[:, :num_template] = output.template.numpy()
    for b in range(batch):
        features[b, num_template + output.position[b].numpy()] = output.search[b].numpy()
    check_features(features, g)

    check_eliminations(output.eliminations, g)
    entered = torch.arange(config.search_grid**2).expand(batch, -1).numpy()
    for layer, elimination in output.eliminations.items():
        before, rank = g[f"ce{layer}_index_before"], g[f"ce{layer}_rank"]
        for b in range(batch):
            assert sorted(entered[b]) == sorted(before[b])
            ours = dict(zip(entered[b], elimination.rank[b].numpy(), strict=True))
            given = np.array([ours[place] for place in before[b]])
            np.testing.assert_allclose(given, rank[b], rtol=1e-4, atol=1e-7)
        entered = elimination.kept.numpy()


@pytest.mark.parametrize(("name", "variant"), variants(VARIANTS))
@torch.inference_mode()
def test_other_template_ranges_and_keep_rates(name: str, variant: str) -> None:
    g, network = golden(NETWORK_FILES[name]), golden_network(name)
    template, search = (t[:1] for t in inputs(name))
    template_range, keep_rate = VARIANTS[variant]
    mask = golden_mask(name, template_range, 1)
    if f"{variant}_ce_template_mask" in g:
        np.testing.assert_array_equal(mask, g[f"{variant}_ce_template_mask"])
    with backbone_outputs(network) as outputs:
        found = network(template, search, mask, keep_rate)
    check_maps(found, g, f"{variant}_")
    assert difference(found["pred_boxes"], g[f"{variant}_pred_boxes"]) <= MAP_TOLERANCE
    (output,) = outputs
    check_eliminations(output.eliminations, g, f"{variant}_")


@pytest.mark.parametrize(("name", "variant"), variants(["lowvar"]))
@torch.inference_mode()
def test_eliminations_of_changed_weights(name: str, variant: str) -> None:
    g, network = golden(NETWORK_FILES[name]), golden_network(name)
    template, search = (t[:1] for t in inputs(name))
    mask = golden_mask(name, network.config.ce_template_range, 1)
    with scaled(changed_weights(name, variant)):
        output = run_backbone(network, template, search, mask)
    if g.meta["observed"].get(f"{variant}_ce_min_cut_gap_rel", 1.0) > DECIDED_GAP:
        check_eliminations(output.eliminations, g, f"{variant}_")

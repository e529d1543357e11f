# SPDX-License-Identifier: Apache-2.0
"""One forward of the official network, stage by stage."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from golden_files import OSTRACK_GOLDENS, Golden, document, fingerprint, golden, seeded_array
from ostrack_golden_network import (
    NETWORK_FILES,
    difference,
    golden_inference,
    golden_mask,
    golden_network,
    inputs,
)
from torch import Tensor, nn

from tracker_ros.crop import hann_window
from tracker_ros.models.center_head import HeadMaps, decode_box
from tracker_ros.models.one_stream_network import resample_position_embedding
from tracker_ros.models.ostrack.candidate_elimination import Elimination, ranking_rows
from tracker_ros.models.ostrack.config import OSTRACK_CONFIGS
from tracker_ros.models.ostrack.network import BackboneOutput, OSTrackNetwork
from tracker_ros.models.vit import Block

MAPS = ("score_map", "size_map", "offset_map")
MAP_TOLERANCE = 1e-5
FEATURE_TOLERANCE = 1e-4
DECIDED_GAP = 1e-5
MOST_LAYERS = 64

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
WEIGHT_VARIANTS = ("lowvar", "clamp", "clamphi")


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
    recorded = [i for i in range(MOST_LAYERS) if f"{prefix}ce{i}_kept" in g]
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


def check_maps(found: dict[str, Tensor], g: Golden, prefix: str = "") -> None:
    for key in MAPS:
        assert difference(found[key], g[prefix + key]) <= MAP_TOLERANCE, key


@configurations
def test_configuration_is_the_official_one(name: str) -> None:
    official, config = document(name)["inference"], OSTRACK_CONFIGS[OSTRACK_GOLDENS[name]]
    assert config.stem == "patch"
    for key in ("template_size", "search_size", "template_factor", "search_factor", "stride"):
        assert getattr(config, key) == official[key], key
    for key in ("embed_dim", "depth", "num_heads", "layer_norm_eps", "head_channels"):
        assert getattr(config, key) == official[key], key
    assert int(config.embed_dim * config.mlp_ratio) == official["mlp_hidden"]
    assert config.search_grid == official["head_feat_size"]
    assert config.clip_margin == official["clip_margin_px"]
    assert list(config.ce_layers) == official["ce_loc"]
    assert [config.ce_keep_ratio] * len(config.ce_layers) == official["ce_keep_ratio"]
    assert config.ce_template_range == official["ce_template_range"]


@configurations
def test_state_dict_has_the_official_keys_and_shapes(name: str) -> None:
    doc, network = document(name), golden_network(name)
    shapes = {key: list(value.shape) for key, value in network.state_dict().items()}
    assert shapes == doc["state_dict"]
    integers = [k for k, v in network.state_dict().items() if v.dtype == torch.int64]
    assert sorted(integers) == sorted(doc["state_dict_int64"])
    assert sum(p.numel() for p in network.parameters()) == doc["parameters"]


@configurations
def test_weights_and_inputs_are_the_golden_ones(name: str) -> None:
    g = golden(NETWORK_FILES[name])
    state = {key: value.numpy() for key, value in golden_network(name).state_dict().items()}
    assert fingerprint(state) == g.meta["weights_sha256"] == document(name)["weights_sha256"]
    template, search = inputs(name)
    np.testing.assert_array_equal(template[:, :, ::37, ::41], g["template_probe"])
    np.testing.assert_array_equal(search[:, :, ::37, ::41], g["search_probe"])


@configurations
@torch.inference_mode()
def test_backbone_features_blocks_and_eliminations(name: str) -> None:
    g, network = golden(NETWORK_FILES[name]), golden_network(name)
    backbone, config = network.backbone, network.config
    template, search = inputs(name)
    batch, num_template = template.shape[0], config.template_grid**2
    total = num_template + config.search_grid**2
    mask = golden_mask(name, config.ce_template_range, batch)
    if mask is not None:
        np.testing.assert_array_equal(mask, g["ce_template_mask"])

    # What a block returns is what the next norm is given.
    leaving: list[Tensor] = []
    norms: list[nn.Module] = [b.norm1 for b in backbone.blocks if isinstance(b, Block)][1:]
    hooks = [
        norm.register_forward_pre_hook(lambda _, given: leaving.append(given[0]))
        for norm in [*norms, backbone.norm]
    ]
    try:
        output = run_backbone(network, template, search, mask)
    finally:
        for hook in hooks:
            hook.remove()

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
    assert difference(features[:, ::5, ::7], g["backbone_sub"]) <= FEATURE_TOLERANCE
    assert difference(features.mean(axis=-1), g["backbone_token_mean"]) <= FEATURE_TOLERANCE
    assert difference(features.std(axis=-1), g["backbone_token_std"]) <= FEATURE_TOLERANCE
    wide = features.astype(np.float64)
    stats = [wide.sum(), wide.mean(), wide.std(), wide.min(), wide.max()]
    np.testing.assert_allclose(stats[1:], g["backbone_stats"][1:], atol=FEATURE_TOLERANCE)
    np.testing.assert_allclose(stats[0] / wide.size, g["backbone_stats"][0] / wide.size, atol=1e-6)

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


@configurations
@torch.inference_mode()
def test_maps_and_boxes(name: str) -> None:
    g, network = golden(NETWORK_FILES[name]), golden_network(name)
    template, search = inputs(name)
    mask = golden_mask(name, network.config.ce_template_range, template.shape[0])
    found = network(template, search, mask)
    check_maps(found, g)
    assert difference(found["pred_boxes"], g["pred_boxes"]) <= MAP_TOLERANCE
    maps = HeadMaps(found["score_map"], found["size_map"], found["offset_map"])
    response = torch.from_numpy(hann_window(network.config.search_grid)) * maps.score
    assert difference(decode_box(response, maps), g["hann_boxes"]) <= MAP_TOLERANCE
    best = response.flatten(1).amax(dim=1, keepdim=True)
    assert difference(best, g["hann_max_score"]) <= MAP_TOLERANCE


@configurations
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
def test_maps_as_the_tracker_runs_it(name: str, packed: bool) -> None:
    g, model = golden(NETWORK_FILES[name]), golden_inference(name, packed)
    template, search = inputs(name)
    boxes = torch.tensor(g.meta["template_box_normalised"])
    for b in range(template.shape[0]):
        encoded = model.encode_template(template[b : b + 1], boxes[b : b + 1])
        maps = model.locate(encoded, search[b : b + 1])
        for key, found in zip(("score_map", "size_map", "offset_map"), maps, strict=True):
            assert difference(found, g[key][b : b + 1]) <= MAP_TOLERANCE, key
        assert difference(decode_box(maps.score, maps), g["pred_boxes"][b]) <= MAP_TOLERANCE


@pytest.mark.parametrize(("name", "variant"), variants(VARIANTS))
@torch.inference_mode()
def test_other_template_ranges_and_keep_rates(name: str, variant: str) -> None:
    g, network = golden(NETWORK_FILES[name]), golden_network(name)
    template, search = (t[:1] for t in inputs(name))
    template_range, keep_rate = VARIANTS[variant]
    mask = golden_mask(name, template_range, 1)
    if f"{variant}_ce_template_mask" in g:
        np.testing.assert_array_equal(mask, g[f"{variant}_ce_template_mask"])
    found = network(template, search, mask, keep_rate)
    check_maps(found, g, f"{variant}_")
    assert difference(found["pred_boxes"], g[f"{variant}_pred_boxes"]) <= MAP_TOLERANCE
    output = run_backbone(network, template, search, mask, keep_rate)
    check_eliminations(output.eliminations, g, f"{variant}_")


@pytest.mark.parametrize(("name", "variant"), variants(WEIGHT_VARIANTS))
@torch.inference_mode()
def test_changed_weights_show_epsilon_and_clamp(name: str, variant: str) -> None:
    g, network = golden(NETWORK_FILES[name]), golden_network(name)
    backbone, head = network.backbone, network.box_head
    last_of_score = head.get_submodule("conv5_ctr").weight
    projection = backbone.patch_embed.get_submodule("proj")
    changes = {
        "lowvar": [(p, 1e-3) for p in (*projection.parameters(), backbone.pos_embed_z)]
        + [(backbone.pos_embed_x, 1e-3)],
        "clamp": [(last_of_score, 12.0)],
        "clamphi": [(last_of_score, -12.0)],
    }[variant]
    template, search = (t[:1] for t in inputs(name))
    mask = golden_mask(name, network.config.ce_template_range, 1)
    kept = [parameter.clone() for parameter, _ in changes]
    try:
        for parameter, scale in changes:
            parameter.mul_(scale)
        found = network(template, search, mask)
        output = run_backbone(network, template, search, mask)
    finally:
        for (parameter, _), before in zip(changes, kept, strict=True):
            parameter.copy_(before)
    check_maps(found, g, f"{variant}_")
    least = g.meta["observed"].get(f"{variant}_ce_min_cut_gap_rel", 1.0)
    if least > DECIDED_GAP:
        check_eliminations(output.eliminations, g, f"{variant}_")
    if variant == "lowvar":
        assert difference(found["pred_boxes"], g["lowvar_pred_boxes"]) <= MAP_TOLERANCE
    else:
        score = found["score_map"]
        clamped = torch.isclose(score.minimum(1.0 - score), torch.tensor(1e-4), atol=1e-6)
        assert clamped.any(), "no score reached the clamp, so it was not checked"


@configurations
def test_position_embeddings_that_fine_tuning_starts_from(name: str) -> None:
    g, config = golden(NETWORK_FILES[name]), OSTRACK_CONFIGS[OSTRACK_GOLDENS[name]]
    key = "backbone.pos_embed"
    start = seeded_array(key, tuple(document(name)["state_dict"][key]), g.meta["seed"] + 1)
    for suffix, grid, step in (("z", config.template_grid, 3), ("x", config.search_grid, 7)):
        found = resample_position_embedding(torch.from_numpy(start), grid)[:, ::step, ::32]
        assert difference(found, g[f"interp_pos_embed_{suffix}"]) <= MAP_TOLERANCE

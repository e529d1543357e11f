# SPDX-License-Identifier: Apache-2.0
"""One forward of the official GRM, block by block; see also `test_one_stream_network.py`."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from golden_files import GRM_GOLDENS, Golden, document, golden, helper
from one_stream_golden_network import (
    FEATURE_TOLERANCE,
    MAP_TOLERANCE,
    NETWORK_FILES,
    backbone_outputs,
    changed_weights,
    check_features,
    check_maps,
    check_token_mask,
    difference,
    golden_forward,
    golden_inference,
    golden_network,
    inputs,
    scaled,
    template_boxes,
)
from torch import Tensor

from tracker_ros.models.one_stream.config import DEFAULT_THRESHOLD, GRM_CONFIGS, TARGET_TYPES
from tracker_ros.models.one_stream.grm import (
    DividingAttention,
    attention_mask,
    decide,
    mix_masked,
    summarise_template,
    template_tokens_in_box,
)

LOG_PROB_TOLERANCE = 2e-5
DECIDED_LOG_RATIO = 2e-5
UNITS = golden("grm_units.npz")

slow = pytest.mark.slow
configurations = pytest.mark.parametrize("name", list(GRM_GOLDENS))


def variants() -> list[tuple[str, str]]:
    """Configurations and prefixes of the variants that their goldens record."""
    return [
        (name, key.removesuffix("score_map"))
        for name in GRM_GOLDENS
        for key in golden(NETWORK_FILES[name]).arrays
        if key.endswith("_score_map") and not key.startswith("clamp")
    ]


def check_divisions(log_prob: Tensor, category: Tensor, g: Golden, prefix: str) -> None:
    """Compare (B, blocks, Nx, 2) with what was recorded, decisions where they are clear."""
    assert difference(log_prob, g[f"{prefix}log_prob"]) <= LOG_PROB_TOLERANCE
    first, second = g[f"{prefix}log_prob"][..., 0], g[f"{prefix}log_prob"][..., 1]
    threshold = threshold_of(prefix)
    margin = np.abs(np.exp(first) - threshold) if threshold else np.abs(first - second)
    clear = margin > DECIDED_LOG_RATIO
    assert clear.mean() > 0.99
    found = category[..., 1].numpy()
    np.testing.assert_array_equal(found[clear], g[f"{prefix}decision"][clear])


def threshold_of(prefix: str) -> float:
    """The threshold that a variant's prefix names, "th055_" for 0.55."""
    return int(prefix[2:5]) / 100 if prefix.startswith("th") else 0.0


@configurations
def test_division_is_configured_as_officially(name: str) -> None:
    official, config = document(name)["inference"], GRM_CONFIGS[GRM_GOLDENS[name]]
    assert config.target_type == official["tgt_type"]
    widths = [2 * config.embed_dim, *config.division_widths, 2]
    assert widths == official["divide_predict_widths"]
    assert list(range(1, config.depth)) == official["divide_layers"]
    thresholds = {key.lower(): value for key, value in official["threshold_per_dataset"].items()}
    assert dict(config.thresholds) == thresholds
    assert config.threshold_of(DEFAULT_THRESHOLD) == 0.0


@slow
@configurations
@torch.inference_mode()
def test_features_blocks_and_divisions(name: str) -> None:
    g, config = golden(NETWORK_FILES[name]), GRM_CONFIGS[GRM_GOLDENS[name]]
    forward, batch = golden_forward(name), g.meta["batch"]
    tokens, divisions = forward.backbone
    parts = torch.stack([block[:, ::16, ::32] for block in forward.leaving], dim=1)
    means = torch.stack([block.mean(dim=-1) for block in forward.leaving], dim=1)
    assert difference(parts, g["block_sub"]) <= FEATURE_TOLERANCE
    assert difference(means, g["block_token_mean"]) <= FEATURE_TOLERANCE
    check_features(tokens.numpy(), g)
    log_prob = torch.stack([d.log_prob for d in divisions], dim=1)
    check_divisions(log_prob, torch.stack([d.category for d in divisions], dim=1), g, "")
    if "template_mask" in g:
        found = template_tokens_in_box(template_boxes(name, batch), config.template_grid)
        np.testing.assert_array_equal(found, g["template_mask"])


@slow
@pytest.mark.parametrize(("name", "prefix"), variants())
@torch.inference_mode()
def test_thresholds_target_types_and_small_inputs(name: str, prefix: str) -> None:
    g, network = golden(NETWORK_FILES[name]), golden_network(name)
    threshold, kept = threshold_of(prefix), network.config
    config = kept
    if prefix.rstrip("_") in TARGET_TYPES:
        config = dataclasses.replace(kept, target_type=prefix.rstrip("_"))
    try:
        network.config = network.backbone.config = config
        changes = changed_weights(name, "lowvar") if prefix == "lowvar_" else []
        with scaled(changes), backbone_outputs(network) as outputs:
            template, search = (t[:1] for t in inputs(name))
            found = network(template, search, template_boxes(name, 1), threshold)
            ((_, divisions),) = outputs
    finally:
        network.config = network.backbone.config = kept
    check_maps(found, g, prefix)
    assert difference(found["pred_boxes"], g[f"{prefix}pred_boxes"]) <= MAP_TOLERANCE
    log_prob = torch.stack([d.log_prob for d in divisions], dim=1)
    check_divisions(log_prob, torch.stack([d.category for d in divisions], dim=1), g, prefix)


@slow
@pytest.mark.parametrize(("name", "prefix"), [v for v in variants() if v[1].startswith("th")])
def test_token_mask_at_a_threshold(name: str, prefix: str) -> None:
    g = golden(NETWORK_FILES[name])
    model = golden_inference(name, True, threshold_of(prefix))
    template, search = (t[:1] for t in inputs(name))
    model.locate(model.encode_template(template, template_boxes(name, 1)), search)
    check_token_mask(model.token_mask(), g[f"{prefix}decision"][0])


@pytest.mark.parametrize("size", [int(k[5:]) for k in UNITS.arrays if k.startswith("mask/")])
def test_template_mask(size: int) -> None:
    boxes = torch.from_numpy(UNITS["mask_boxes_xywh"])
    found = template_tokens_in_box(boxes, size // 16)
    np.testing.assert_array_equal(found, UNITS[f"mask/{size}"])


def test_policy_softmax_and_its_gradients() -> None:
    scores = torch.from_numpy(UNITS["policy/attn_in"]).requires_grad_()
    policy = torch.from_numpy(UNITS["policy/policy"]).requires_grad_()
    template = int(policy[0, :, 0].sum())
    mask = attention_mask(policy[:, template:, 1:], template)
    # The means of unit vectors are the weights.
    out = mix_masked(scores, mask, torch.eye(scores.shape[-1]).expand_as(scores))
    (out * torch.from_numpy(UNITS["policy/weight"])).sum().backward()
    assert difference(out, UNITS["policy/out"]) <= 1e-6
    assert scores.grad is not None
    assert policy.grad is not None
    assert difference(scores.grad, UNITS["policy/grad_attn"]) <= 1e-6
    # The template's own columns are constants here.
    of_search = UNITS["policy/grad_policy"][:, template:, 1:]
    bound = 1e-6 * np.abs(of_search).max()
    assert difference(policy.grad[:, template:, 1:], of_search) <= bound


@pytest.mark.parametrize("case", [k[-1] for k in UNITS.arrays if k.startswith("attention/y_th")])
@torch.inference_mode()
def test_one_dividing_attention(case: str) -> None:
    shapes = {key: tuple(shape) for key, shape in UNITS.meta["attention_shapes"].items()}
    width, seeded, seed = shapes["proj.bias"][0], helper("seeded_state"), UNITS.meta["seed"]
    wanted = UNITS[f"attention/y_th{case}"]
    decision = UNITS[f"attention/decision_th{case}"].astype(bool)
    attention = DividingAttention(width, num_heads=3)
    state = seeded.seeded_state_dict(shapes, seed)
    attention.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()})
    tokens = torch.from_numpy(seeded.seeded_input("grm_attention", wanted.shape, seed))
    template = tokens.shape[1] - decision.shape[1]
    summary = summarise_template(tokens[:, :template], "allmax", None)
    log_prob = attention.log_prob(tokens[:, template:], summary)
    second = decide(log_prob, int(case) / 10)
    np.testing.assert_array_equal(second, decision)
    category = torch.nn.functional.one_hot(second.long(), 2).float()
    assert difference(attention.forward_divided(tokens, category), wanted) <= 2e-6

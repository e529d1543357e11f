# SPDX-License-Identifier: Apache-2.0
"""Forward passes of the official networks: what OSTrack and GRM have in common."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from golden_files import (
    GRM_GOLDENS,
    ONE_STREAM_GOLDENS,
    document,
    fingerprint,
    golden,
    seeded_array,
)
from one_stream_golden_network import (
    MAP_TOLERANCE,
    MAPS,
    NETWORK_FILES,
    changed_weights,
    check_maps,
    check_token_mask,
    config_of,
    difference,
    golden_forward,
    golden_inference,
    golden_network,
    inputs,
    predict,
    scaled,
    template_boxes,
)

from tracker_ros.crops import hann_window
from tracker_ros.models.layers.center_head import HeadMaps, decode_box
from tracker_ros.models.one_stream.network import resample_position_embedding

pytestmark = pytest.mark.slow
configurations = pytest.mark.parametrize("name", list(ONE_STREAM_GOLDENS))


@configurations
def test_configuration_is_the_official_one(name: str) -> None:
    official, config = document(name)["inference"], config_of(name)
    assert config.stem == "patch"
    for key in ("template_size", "search_size", "template_factor", "search_factor", "stride"):
        assert getattr(config, key) == official[key], key
    for key in ("embed_dim", "depth", "num_heads", "layer_norm_eps", "head_channels"):
        assert getattr(config, key) == official[key], key
    assert int(config.embed_dim * config.mlp_ratio) == official["mlp_hidden"]
    assert config.search_grid == official["head_feat_size"]
    assert config.clip_margin == official["clip_margin_px"]


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
def test_maps_and_boxes(name: str) -> None:
    g = golden(NETWORK_FILES[name])
    found = golden_forward(name).prediction
    check_maps(found, g)
    assert difference(found["pred_boxes"], g["pred_boxes"]) <= MAP_TOLERANCE
    maps = HeadMaps(found["score_map"], found["size_map"], found["offset_map"])
    response = torch.from_numpy(hann_window(config_of(name).search_grid)) * maps.score
    assert difference(decode_box(response, maps), g["hann_boxes"]) <= MAP_TOLERANCE
    best = response.flatten(1).amax(dim=1, keepdim=True)
    assert difference(best, g["hann_max_score"]) <= MAP_TOLERANCE


@pytest.mark.parametrize(
    ("name", "packed"), [(name, packed) for name in ONE_STREAM_GOLDENS for packed in (False, True)]
)
def test_maps_and_token_masks_as_the_tracker_runs_it(name: str, packed: bool) -> None:
    g, model = golden(NETWORK_FILES[name]), golden_inference(name, packed)
    template, search = inputs(name)
    boxes = template_boxes(name, len(template))
    for b in range(template.shape[0]):
        encoded = model.encode_template(template[b : b + 1], boxes[b : b + 1])
        maps = model.locate(encoded, search[b : b + 1])
        for key, found in zip(MAPS, maps, strict=True):
            assert difference(found, g[key][b : b + 1]) <= MAP_TOLERANCE, key
        assert difference(decode_box(maps.score, maps), g["pred_boxes"][b]) <= MAP_TOLERANCE
        mask = model.token_mask()
        if name in GRM_GOLDENS:
            check_token_mask(mask, g["decision"][b])
        elif mask is not None:
            for layer, kept in zip(model.config.ce_layers, mask[0], strict=True):
                assert kept.sum() == len(g[f"ce{layer}_kept"][b])


WEIGHT_VARIANTS = [
    (name, variant)
    for name in ONE_STREAM_GOLDENS
    for variant in ("lowvar", "clamp", "clamphi")
    if f"{variant}_score_map" in golden(NETWORK_FILES[name])
]


@pytest.mark.parametrize(("name", "variant"), WEIGHT_VARIANTS)
@torch.inference_mode()
def test_changed_weights_show_epsilon_and_clamp(name: str, variant: str) -> None:
    g = golden(NETWORK_FILES[name])
    template, search = (t[:1] for t in inputs(name))
    with scaled(changed_weights(name, variant)):
        found = predict(name, template, search)
    check_maps(found, g, f"{variant}_")
    if variant == "lowvar":
        assert difference(found["pred_boxes"], g["lowvar_pred_boxes"]) <= MAP_TOLERANCE
    else:
        score = found["score_map"]
        clamped = torch.isclose(score.minimum(1.0 - score), torch.tensor(1e-4), atol=1e-6)
        assert clamped.any(), "no score reached the clamp, so it was not checked"


@configurations
def test_position_embeddings_that_fine_tuning_starts_from(name: str) -> None:
    g, config = golden(NETWORK_FILES[name]), config_of(name)
    key = "backbone.pos_embed"
    start = seeded_array(key, tuple(document(name)["state_dict"][key]), g.meta["seed"] + 1)
    for suffix, grid, step in (("z", config.template_grid, 3), ("x", config.search_grid, 7)):
        found = resample_position_embedding(torch.from_numpy(start), grid)[:, ::step, ::32]
        assert difference(found, g[f"interp_pos_embed_{suffix}"]) <= MAP_TOLERANCE

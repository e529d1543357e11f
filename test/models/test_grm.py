# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from small_networks import SMALL_GRM

from tracker_ros.checkpoints import write_weights
from tracker_ros.engines.select_backend import Backend
from tracker_ros.models.one_stream.config import GRM_TINY, GRM_VITB_256, OSTRACK_TINY, GRMConfig
from tracker_ros.models.one_stream.factory import create_grm
from tracker_ros.models.one_stream.grm import (
    DividingBlock,
    GRMNetwork,
    attention_mask,
    decide,
    decide_with_noise,
    mix_masked,
    summarise_template,
    template_tokens_in_box,
)
from tracker_ros.models.one_stream.inference import GRMInference
from tracker_ros.models.one_stream.ostrack import OSTrackNetwork

CONFIGS = {
    "small": SMALL_GRM,
    "average in box": dataclasses.replace(SMALL_GRM, target_type="roiavg"),
    "tiny": GRM_TINY,
}
CPU = torch.device("cpu")
BOX = torch.tensor([[0.25, 0.25, 0.5, 0.5]])

configs = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())


def make_network(config: GRMConfig) -> GRMNetwork:
    """A network in which either category has search tokens."""
    torch.manual_seed(0)
    network = GRMNetwork(config)
    for module in network.modules():
        if isinstance(module, DividingBlock):
            for layer in (0, 2, 4):
                torch.nn.init.normal_(module.attn.divide_predict[layer].weight, std=0.5)
    return network.eval()


def make_inputs(config: GRMConfig, batch: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    template, search = config.template_size, config.search_size
    return torch.randn(batch, 3, template, template), torch.randn(batch, 3, search, search)


@configs
@pytest.mark.parametrize("packed", [False, True], ids=["plain layers", "packed layers"])
@pytest.mark.parametrize("threshold", [0.0, 0.55])
@torch.inference_mode()
def test_inference_gives_the_numbers_of_the_network(
    config: GRMConfig, packed: bool, threshold: float
) -> None:
    network = make_network(config)
    template, search = make_inputs(config)
    wanted = network(template, search, BOX, threshold)
    model = GRMInference(copy.deepcopy(network), CPU, packed, threshold=threshold)
    maps = model.locate(model.encode_template(template, BOX), search)
    for found, key in zip(maps, ("score_map", "size_map", "offset_map"), strict=True):
        torch.testing.assert_close(found, wanted[key], rtol=0, atol=2e-5)

    backbone = network.backbone
    tokens = backbone.embed_template(template, BOX), backbone.embed_search(search)
    mask = template_tokens_in_box(BOX, config.template_grid)
    _, divisions = backbone(*tokens, mask, threshold)
    second = torch.stack([division.category[0, :, 1] for division in divisions])
    (mask,) = model.token_mask()
    assert mask.dtype == bool
    assert 0 < mask.sum() < mask.size
    np.testing.assert_array_equal(mask, second.view(mask.shape).bool().numpy())


@configs
@torch.inference_mode()
def test_a_batch_of_targets_gives_each_its_own_numbers(config: GRMConfig) -> None:
    model = GRMInference(make_network(config), CPU)
    templates, searches = make_inputs(config, batch=3)
    boxes = torch.tensor([[0.25, 0.25, 0.5, 0.5], [0.4, 0.3, 0.25, 0.3], [0.1, 0.1, 0.8, 0.8]])
    encoded = [
        model.encode_template(template, box)
        for template, box in zip(templates.split(1), boxes.split(1), strict=True)
    ]
    together = model.locate_batch(encoded, searches)
    masks = model.token_mask()
    for i, search in enumerate(searches.split(1)):
        for found, alone in zip(together, model.locate(encoded[i], search), strict=True):
            torch.testing.assert_close(found[i : i + 1], alone, rtol=0, atol=1e-5)
        np.testing.assert_array_equal(masks[i], model.token_mask()[0])


@torch.inference_mode()
def test_masked_pairs_leave_a_trace() -> None:
    """An additive mask would leave none: at scores that stand out, results differ."""
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 1, 2, 20, 16).unbind(0)
    second = torch.arange(16) < 9
    mask = attention_mask(torch.nn.functional.one_hot(second.long(), 2).float()[None], 4)
    plain = torch.nn.functional.scaled_dot_product_attention(8 * query, key, value, mask.bool())
    scores = 8 * query @ key.transpose(-2, -1) / 4
    assert (plain - mix_masked(scores, mask, value)).abs().max() > 1e-2


def test_who_may_attend_to_whom() -> None:
    category = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]])
    mask = attention_mask(category, num_template=1)[0]
    assert mask.tolist() == [
        [1, 0, 1, 0, 1],
        [0, 1, 1, 1, 1],
        [1, 1, 1, 1, 1],
        [0, 1, 1, 1, 1],
        [1, 1, 1, 1, 1],
    ]


def test_decision_by_the_likelier_category_or_by_threshold() -> None:
    log_prob = torch.tensor([[0.7, 0.3], [0.45, 0.55], [0.2, 0.8], [0.5, 0.5]]).log()
    assert decide(log_prob, 0.0).tolist() == [False, True, True, False]
    assert decide(log_prob, 0.4).tolist() == [False, False, True, False]
    assert decide(log_prob, 0.6).tolist() == [False, True, True, True]


def test_noise_turns_decisions_at_their_probabilities() -> None:
    torch.manual_seed(0)
    probability = torch.tensor([0.2, 0.8]).expand(1, 20000, 2)
    drawn = decide_with_noise(probability.log(), None)
    assert set(drawn.round().flatten().tolist()) == {0.0, 1.0}
    assert drawn[..., 1].mean().item() == pytest.approx(0.8, abs=0.01)


def test_decisions_pass_gradients_straight_through() -> None:
    log_prob = torch.tensor([[[0.3, 0.7]]]).log().requires_grad_()
    noise = torch.tensor([[[0.5, 0.0]]])
    decide_with_noise(log_prob, noise)[..., 1].sum().backward()
    soft = (log_prob.detach() + noise).softmax(dim=-1)[0, 0]
    slope = soft[0] * soft[1]
    torch.testing.assert_close(log_prob.grad, torch.tensor([[[-slope, slope]]]))


def test_summary_of_the_template() -> None:
    tokens = torch.tensor([[[1.0, -4.0], [3.0, -2.0]]])
    mask = torch.tensor([[1.0, 0.0]])
    for kind, wanted in {
        "allmax": [3.0, -2.0],
        "allavg": [2.0, -3.0],
        "roimax": [1.0, 0.0],
        "roiavg": [0.5, -2.0],
    }.items():
        assert summarise_template(tokens, kind, mask)[0, 0].tolist() == wanted
    with pytest.raises(ValueError, match="'roimax' reads the box"):
        summarise_template(tokens, "roimax", None)


@configs
def test_training_reaches_every_parameter_that_is_read(config: GRMConfig) -> None:
    network = make_network(config).train()
    output = network(*make_inputs(config, batch=2), BOX.expand(2, -1))
    sum(value.sum() for value in output.values()).backward()
    without = {name for name, p in network.named_parameters() if p.grad is None}
    unread = {"backbone.cls_token", "backbone.pos_embed"} if config.stem == "patch" else set()
    assert without == unread
    division = network.backbone.get_submodule("blocks.1.attn.divide_predict.0")
    assert division.weight.grad.abs().max() > 0


@configs
def test_training_under_bfloat16_autocast_is_finite(config: GRMConfig) -> None:
    network = make_network(config).train()
    with torch.autocast("cpu", torch.bfloat16):
        output = network(*make_inputs(config, batch=2), BOX.expand(2, -1))
        loss = output["score_map"].sum() + output["pred_boxes"].sum()
    loss.backward()
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    assert gradients
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


def test_training_draws_anew_and_can_be_told_what() -> None:
    network, noise = make_network(SMALL_GRM).train(), torch.randn(1, 3, 64, 2)
    inputs = make_inputs(SMALL_GRM)
    with torch.no_grad():
        drawn = [network(*inputs)["score_map"] for _ in range(2)]
        told = [network(*inputs, noise=noise)["score_map"] for _ in range(2)]
    assert not torch.equal(*drawn)
    assert torch.equal(*told)


def test_the_compact_member_starts_from_ostracks() -> None:
    weights = OSTrackNetwork(OSTRACK_TINY).state_dict()
    result = GRMNetwork(GRM_TINY).load_state_dict(weights, strict=False)
    assert not result.unexpected_keys
    assert all(".attn.divide_predict." in key for key in result.missing_keys)
    parameters = sum(p.numel() for p in GRMNetwork(GRM_TINY).parameters())
    assert 2 * parameters < 12_000_000


def test_a_token_mask_needs_a_search_region() -> None:
    with pytest.raises(RuntimeError, match="before locate"):
        GRMInference(make_network(SMALL_GRM), CPU).token_mask()


def test_threshold_by_name_or_number() -> None:
    assert GRM_VITB_256.threshold_of("LaSOT") == 0.4
    assert GRM_VITB_256.threshold_of("default") == 0.0
    assert GRM_VITB_256.threshold_of(0.3) == GRM_VITB_256.threshold_of("0.3") == 0.3
    with pytest.raises(ValueError, match="'vot' is unknown; expected a number from 0 to 1 or one"):
        GRM_VITB_256.threshold_of("vot")
    with pytest.raises(ValueError, match=r"threshold 1.5 is outside \[0, 1\]"):
        GRM_VITB_256.threshold_of(1.5)


def test_unknown_target_types_are_refused() -> None:
    with pytest.raises(ValueError, match="target_type 'some' is unknown"):
        dataclasses.replace(SMALL_GRM, target_type="some")


def test_a_tracker_is_made_with_the_threshold_that_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    write_weights(GRMNetwork(GRM_TINY).state_dict(), path)
    image = np.random.default_rng(0).integers(0, 255, (120, 160, 3), dtype=np.uint8)
    fractions = []
    backend = Backend("torch", CPU, "fp32", "grm_tiny", tmp_path)
    for threshold in ("default", 1.0, "1e-9"):
        tracker = create_grm(
            "grm_tiny", backend=backend, weights=path, sha256=None, threshold=threshold, narrow=0
        )
        tracker.initialize(image, (60, 40, 40, 30))
        assert tracker.track(image).token_mask is None
        tracker.explain = True
        mask = tracker.track(image).token_mask
        assert mask.shape == (GRM_TINY.depth - 1, GRM_TINY.search_grid, GRM_TINY.search_grid)
        fractions.append(mask.mean())
    assert 0.0 < fractions[0] < fractions[1] == 1.0
    assert fractions[2] == 0.0
    with pytest.raises(ValueError, match="'vot' is unknown"):
        create_grm("grm_tiny", backend=backend, weights=path, sha256=None, threshold="vot")

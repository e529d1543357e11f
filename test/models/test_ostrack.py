# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
from small_networks import SMALL_OSTRACK

from tracker_ros.models.one_stream.candidate_elimination import ranking_rows
from tracker_ros.models.one_stream.config import OSTRACK_TINY, OSTrackConfig
from tracker_ros.models.one_stream.inference import OSTrackInference
from tracker_ros.models.one_stream.network import target_coverage
from tracker_ros.models.one_stream.ostrack import OSTrackNetwork
from tracker_ros.models.one_stream.tracker import OneStreamTracker

WITHOUT_CE = dataclasses.replace(SMALL_OSTRACK, ce_layers=(), ce_template_range="ALL")
CE_IN_LAST = dataclasses.replace(SMALL_OSTRACK, ce_layers=(0, 3), ce_template_range="CTR_REC")
CONFIGS = {
    "ce": SMALL_OSTRACK,
    "plain": WITHOUT_CE,
    "ce in last block": CE_IN_LAST,
    "tiny": OSTRACK_TINY,
}

configs = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())


def make_network(config: OSTrackConfig) -> OSTrackNetwork:
    """A network whose batch norms have seen data, so that folding them changes something."""
    torch.manual_seed(0)
    network = OSTrackNetwork(config)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.5, 0.5)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -0.2, 0.2)
    return network.eval()


BOX = torch.tensor([[0.25, 0.25, 0.5, 0.5]])


def make_inputs(config: OSTrackConfig, batch: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    template, search = config.template_size, config.search_size
    return torch.randn(batch, 3, template, template), torch.randn(batch, 3, search, search)


def run(network: OSTrackNetwork, template: torch.Tensor, search: torch.Tensor, **options):
    """The network's outputs for a target in the middle of the template."""
    boxes = BOX.expand(len(template), -1)
    return network(template, search, template_boxes=boxes, **options)


@configs
def test_outputs_have_the_documented_shapes(config: OSTrackConfig) -> None:
    n = config.search_grid
    output = run(make_network(config), *make_inputs(config, batch=2))
    shapes = {key: tuple(value.shape) for key, value in output.items()}
    assert shapes == {
        "score_map": (2, 1, n, n),
        "size_map": (2, 2, n, n),
        "offset_map": (2, 2, n, n),
        "pred_boxes": (2, 1, 4),
    }
    assert all(torch.isfinite(value).all() for value in output.values())


@configs
@pytest.mark.parametrize("packed", [False, True], ids=["plain layers", "packed layers"])
@torch.inference_mode()
def test_inference_gives_the_numbers_of_the_network(config: OSTrackConfig, packed: bool) -> None:
    network = make_network(config)
    template, search = make_inputs(config)
    wanted = run(network, template, search, template_mask=network.template_mask(BOX))
    model = OSTrackInference(copy.deepcopy(network), torch.device("cpu"), packed)
    maps = model.locate(model.encode_template(template, BOX), search)
    for found, key in zip(maps, ("score_map", "size_map", "offset_map"), strict=True):
        torch.testing.assert_close(found, wanted[key], rtol=0, atol=2e-5)


@pytest.mark.parametrize("config", [SMALL_OSTRACK, CE_IN_LAST, WITHOUT_CE])
@torch.inference_mode()
def test_the_token_mask_holds_what_each_layer_kept(config: OSTrackConfig) -> None:
    network = make_network(config)
    template, search = make_inputs(config, batch=2)
    rows = ranking_rows(
        network.template_mask(BOX.expand(2, -1)), 2, config.template_grid**2, torch.device("cpu")
    )
    backbone = network.backbone
    wanted = backbone(backbone.embed_template(template), backbone.embed_search(search), rows)
    model = OSTrackInference(network, torch.device("cpu"))
    encoded = [model.encode_template(one, BOX) for one in template.split(1)]
    model.locate_batch(encoded, search)
    masks = model.token_mask()
    if not config.ce_layers:
        assert masks is None
        return
    assert masks.shape == (2, len(config.ce_layers), config.search_grid, config.search_grid)
    for layer, elimination in enumerate(wanted.eliminations.values()):
        for sample, kept in enumerate(elimination.kept.sort(dim=1).values):
            np.testing.assert_array_equal(masks[sample, layer].reshape(-1).nonzero()[0], kept)


def test_a_result_carries_the_token_mask_of_its_target_on_request() -> None:
    model = OSTrackInference(make_network(SMALL_OSTRACK), torch.device("cpu"))
    image = np.random.default_rng(0).integers(0, 255, (120, 160, 3), dtype=np.uint8)
    first = OneStreamTracker(model)
    second = first.fork()
    second.explain = True
    for tracker, box in ((first, (20, 20, 30, 30)), (second, (90, 50, 30, 40))):
        tracker.initialize(image, box)
    alone = second.fork()
    plain, explained = first.track_batch([second], image)
    assert plain.token_mask is None
    assert explained.token_mask.sum(axis=(1, 2)).tolist() == SMALL_OSTRACK.kept_tokens()[1:]
    np.testing.assert_array_equal(explained.token_mask, alone.track(image).token_mask)


@pytest.mark.parametrize("template_range", ["CTR_POINT", "GT_BOX"])
@configs
@torch.inference_mode()
def test_a_batch_of_targets_gives_each_its_own_numbers(
    config: OSTrackConfig, template_range: str
) -> None:
    config = dataclasses.replace(config, ce_template_range=template_range)
    model = OSTrackInference(make_network(config), torch.device("cpu"))
    templates, searches = make_inputs(config, batch=3)
    boxes = torch.tensor([[0.25, 0.25, 0.5, 0.5], [0.4, 0.3, 0.25, 0.3], [0.1, 0.1, 0.8, 0.8]])
    encoded = [
        model.encode_template(template, box)
        for template, box in zip(templates.split(1), boxes.split(1), strict=True)
    ]
    together = model.locate_batch(encoded, searches)
    for i, search in enumerate(searches.split(1)):
        for found, alone in zip(together, model.locate(encoded[i], search), strict=True):
            torch.testing.assert_close(found[i : i + 1], alone, rtol=0, atol=1e-5)


@configs
def test_training_reaches_every_parameter_that_is_read(config: OSTrackConfig) -> None:
    network = make_network(config).train()
    output = run(network, *make_inputs(config, batch=2))
    sum(value.sum() for value in output.values()).backward()
    without = {name for name, p in network.named_parameters() if p.grad is None}
    unread = {"backbone.cls_token", "backbone.pos_embed"} if config.stem == "patch" else set()
    assert without == unread


@configs
def test_training_under_bfloat16_autocast_is_finite(config: OSTrackConfig) -> None:
    network = make_network(config).train()
    with torch.autocast("cpu", torch.bfloat16):
        output = run(network, *make_inputs(config, batch=2))
        loss = output["score_map"].sum() + output["pred_boxes"].sum()
    loss.backward()
    assert all(value.dtype == torch.float32 for value in output.values())
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    assert gradients
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


def test_samples_do_not_influence_each_other() -> None:
    network = make_network(SMALL_OSTRACK)
    template, search = make_inputs(SMALL_OSTRACK, batch=3)
    together = network(template, search)
    alone = network(template[1:2], search[1:2])
    for key, value in alone.items():
        torch.testing.assert_close(together[key][1:2], value, rtol=0, atol=1e-5)


def test_keep_rate_of_one_removes_nothing() -> None:
    network = make_network(SMALL_OSTRACK)
    template, search = make_inputs(SMALL_OSTRACK)
    every = OSTrackNetwork(WITHOUT_CE).eval()
    every.load_state_dict(network.state_dict())
    for key, value in every(template, search).items():
        found = network(template, search, keep_rate=1.0)[key]
        torch.testing.assert_close(found, value, rtol=0, atol=1e-6)


def test_coverage_is_the_boxs_share_of_each_token() -> None:
    box = torch.tensor([[0.125, 0.25, 0.5, 0.625]])
    found = target_coverage(box, 4)[0].view(4, 4)
    columns, rows = torch.tensor([0.5, 1, 0.5, 0]), torch.tensor([0, 1, 1, 0.5])
    torch.testing.assert_close(found, rows[:, None] * columns)


def test_the_mark_changes_with_the_box() -> None:
    network = make_network(OSTRACK_TINY)
    torch.nn.init.normal_(network.backbone.target_mark)
    template, search = make_inputs(OSTRACK_TINY)
    wide, tall = torch.tensor([[[0.2, 0.4, 0.6, 0.2]], [[0.4, 0.2, 0.2, 0.6]]])
    inside, outside = network.backbone.target_mark
    embed = network.backbone.embed_template
    change = embed(template, wide) - embed(template, tall)
    covered = target_coverage(wide, 6) - target_coverage(tall, 6)
    torch.testing.assert_close(change[0], covered[0, :, None] * (inside - outside))
    assert covered.abs().max() > 0.4
    with pytest.raises(ValueError, match="give it template_boxes"):
        network(template, search)


def test_fine_tuning_starts_from_the_classifiers_positions() -> None:
    network = make_network(SMALL_OSTRACK)
    network.backbone.start_positions_from_classifier()
    middle = network.backbone.pos_embed[:, 1:].mean(dim=1)
    found = network.backbone.pos_embed_x.mean(dim=1)
    assert (found - middle).abs().max() < 0.02
    with pytest.raises(ValueError, match="'conv' has no pretrained position embedding"):
        OSTrackNetwork(OSTRACK_TINY).backbone.start_positions_from_classifier()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"search_size": 65}, "search_size 65 is not a multiple of stride 8"),
        ({"num_heads": 5}, "embed_dim 48 is not a multiple of num_heads 5"),
        ({"stem": "wood"}, "stem 'wood' is unknown"),
        ({"ce_template_range": "CORNER"}, "'CORNER' is unknown"),
        ({"ce_keep_ratio": 0.0}, r"ce_keep_ratio 0.0 is outside \(0, 1\]"),
        ({"ce_layers": (4,)}, r"ce_layers \(4,\) are not all blocks"),
    ],
)
def test_impossible_configurations_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL_OSTRACK, **change)


def test_kept_tokens_are_counted() -> None:
    assert SMALL_OSTRACK.kept_tokens() == [64, 45, 32]
    assert SMALL_OSTRACK.kept_tokens(keep_rate=0.5) == [64, 32, 16]
    assert WITHOUT_CE.kept_tokens() == [64]

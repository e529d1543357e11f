# SPDX-License-Identifier: Apache-2.0
"""Set the starting values of networks, from scratch or from other weights.

A one-stream tracker must learn to compare before it can learn anything else. From the usual small
random numbers that takes most of a short training: attention does not match, and tokens do not
show whether they belong to the target, its surroundings or the search region, because position
embeddings of 0.02 are lost in content of about 1. So attention, positions and marks get useful
values at the start, and are free to change.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from tracker_ros.checkpoints import check_fit, load_strictly, read_weights
from tracker_ros.model_cards import embedded_file
from tracker_ros.models.layers.center_head import CenterHead
from tracker_ros.models.layers.mobilenet import COARSE_CHANNELS
from tracker_ros.models.layers.vit import Attention
from tracker_ros.models.one_stream.grm import DividingAttention
from tracker_ros.models.one_stream.network import OneStreamNetwork, is_added_to_classifier
from tracker_ros.models.trdimp.network import TrDiMPNetwork
from tracker_ros.models.two_stream.network import Block as AttendingBlock
from tracker_ros.models.two_stream.network import TwoStreamNetwork

POSITION_AMPLITUDE = 0.3
MARK_AMPLITUDE = 0.5
FIRST_SCORE = 0.1
FIRST_FILTER_SCALE = 0.4
FIRST_MEETING_LOGIT = 1.0
SIMILARITY_DEVIATION = 0.3


@torch.no_grad()
def begin_from_scratch(network: OneStreamNetwork, similarity: float) -> None:
    """Set the starting values of a network with convolutional stem, in place.

    Keys project as queries do, so that similar tokens attend to each other: `similarity` is the
    standard deviation of both weights, 0 leaves attention as it is. Positions are sines of the
    distance from the crop's centre; template tokens carry one mark on the target and another
    around it. The score map starts near "nothing here", the size map at the mean size.
    """
    attentions = [m for m in network.modules() if isinstance(m, Attention)]
    for attention in attentions if similarity else ():
        weight = attention.qkv.weight
        width = weight.shape[1]
        nn.init.normal_(weight[:width], std=similarity)
        weight[width : 2 * width] = weight[:width]
    config, backbone = network.config, network.backbone
    backbone.pos_embed_x.copy_(sine_positions(config.search_grid, config.embed_dim))
    backbone.pos_embed_z.copy_(sine_positions(config.template_grid, config.embed_dim))
    if config.mark_target:
        nn.init.normal_(backbone.target_mark, std=MARK_AMPLITUDE)
    begin_unsure(network.box_head, config.search_factor)


def starting_weights(start_from: str) -> Path:
    """Return the file that `start_from` names: a path, or a model's embedded weights."""
    embedded = embedded_file(f"{start_from}.safetensors")
    return embedded if embedded.is_file() else Path(start_from).expanduser()


def begin_from_weights(network: OneStreamNetwork, path: Path) -> None:
    """Load a whole model's weights, or those of a pretrained classifier's backbone, in place.

    Of the safetensors file the head, GRM's token division and the two position embeddings may be
    missing; the latter are then resampled from ``backbone.pos_embed``. Raises ValueError if it
    lacks some of the backbone's own weights, has others, or they do not fit.
    """
    state = read_weights(path)
    positions = {"backbone.pos_embed_z", "backbone.pos_embed_x"}

    check_fit(network, state, path.name, is_added_to_classifier)
    missing, _ = network.load_state_dict(state, strict=False)
    if positions & set(missing):
        network.backbone.start_positions_from_classifier()


@torch.no_grad()
def begin_undivided(network: OneStreamNetwork) -> None:
    """Let GRM compare most search tokens with the template at first, in place.

    If this were left to chance, each block would compare half of them, and a network that has
    learned to compare would have to learn it again.
    """
    for module in network.modules():
        if isinstance(module, DividingAttention):
            last = cast(nn.Linear, module.divide_predict[-1])
            last.bias.copy_(torch.tensor([0.0, FIRST_MEETING_LOGIT]))


@torch.no_grad()
def begin_as_matcher(network: TrDiMPNetwork) -> None:
    """Let the pooled filter start as the target's own features, in place.

    Its scores are then their correlation with the search crop, which finds the target better than
    chance before anything is learned.
    """
    convolution = network.classifier.filter_initializer.filter_conv
    nn.init.dirac_(convolution.weight)
    convolution.weight.mul_(FIRST_FILTER_SCALE)


def begin_on_backbone(network: TrDiMPNetwork, path: Path) -> None:
    """Load the whole network, or the backbone of a classifier, from a safetensors file, in place.

    A classifier's layers are called as in torchvision: ``conv1.weight`` and so on. Its fourth
    stage and last layer are left out where the network has none. Raises FileNotFoundError if
    there is no such file, ValueError if the weights do not fit.
    """
    state = read_weights(path)
    if any(key.startswith("feature_extractor.") for key in state):
        load_strictly(network, state, path.name)
        return
    own = network.feature_extractor.state_dict()
    unread = ("layer4.", "fc.")
    load_strictly(
        network.feature_extractor,
        {key: t for key, t in state.items() if key in own or not key.startswith(unread)},
        path.name,
    )


@torch.no_grad()
def begin_as_comparison(network: TwoStreamNetwork) -> None:
    """Set the starting values of what compares a body's features, in place.

    Cells are compared by the body's coarse features themselves, and similar tokens attend to each
    other. Positions, score and size start as in `begin_from_scratch`.
    """
    config, width = network.config, network.config.embed_dim
    network.search_position.copy_(sine_positions(config.search_grid, width))
    network.template_position.copy_(sine_positions(config.template_cells, width))
    for mark in (network.target_mark, network.template_mark):
        nn.init.normal_(mark, std=MARK_AMPLITUDE)
    nn.init.normal_(network.similarity.weight, std=SIMILARITY_DEVIATION)
    nn.init.zeros_(network.compare.weight)
    nn.init.eye_(network.compare.weight[:, -COARSE_CHANNELS:, 0, 0])
    for block in network.blocks:
        assert isinstance(block, AttendingBlock)
        block.key_value.weight[:width] = block.query.weight
    begin_unsure(network.box_head, config.search_factor)


def begin_on_body(network: TwoStreamNetwork, path: Path) -> None:
    """Load a pretrained body, or the whole network, from a safetensors file, in place.

    Raises FileNotFoundError if there is no such file, ValueError if the weights do not fit.
    """
    state = read_weights(path)
    whole = any(key.startswith("body.") for key in state)
    load_strictly(network if whole else network.body, state, path.name)


@torch.no_grad()
def begin_unsure(head: CenterHead, search_factor: float) -> None:
    """Let the score map start near "nothing here" and the size map at the mean size, in place."""
    for name, start in (("ctr", FIRST_SCORE), ("size", 1 / search_factor)):
        bias = head.get_parameter(f"conv5_{name}.bias")
        nn.init.constant_(bias, math.log(start / (1 - start)))


def sine_positions(grid: int, width: int) -> Tensor:
    """Return (grid * grid, width) waves of a token's column and row, from the centre."""
    steps = torch.arange(grid) - (grid - 1) / 2
    count = width // 4
    rates = math.pi / 2 ** torch.linspace(0.5, 4.5, count)
    waves = steps[:, None] * rates
    line = torch.cat([waves.sin(), waves.cos()], 1)
    rows = line[:, None].expand(-1, grid, -1)
    columns = line[None].expand(grid, -1, -1)
    full = torch.cat([columns, rows], 2).reshape(grid * grid, 4 * count)
    return POSITION_AMPLITUDE * nn.functional.pad(full, (0, width - 4 * count))

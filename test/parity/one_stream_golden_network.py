# SPDX-License-Identifier: Apache-2.0
"""One-stream networks with golden weights. One configuration is in memory at a time.

`conftest.py` sorts the tests by configuration, so that each network is made once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
import torch
from golden_files import (
    ONE_STREAM_GOLDENS,
    Golden,
    document,
    golden,
    golden_weights,
    network_inputs,
)
from torch import Tensor

from tracker_ros.checkpoints import load_strictly
from tracker_ros.models.layers.vit import Block
from tracker_ros.models.one_stream.candidate_elimination import template_token_mask
from tracker_ros.models.one_stream.config import (
    GRM_CONFIGS,
    OSTRACK_CONFIGS,
    GRMConfig,
    OSTrackConfig,
)
from tracker_ros.models.one_stream.grm import GRMNetwork
from tracker_ros.models.one_stream.inference import (
    GRMInference,
    OSTrackInference,
)
from tracker_ros.models.one_stream.ostrack import OSTrackNetwork
from tracker_ros.registry import empty_network

MAPS = ("score_map", "size_map", "offset_map")
MAP_TOLERANCE = 1e-5
LARGE = 200_000_000
"""Parameters from which two copies of the weights would take too much memory."""
FEATURE_TOLERANCE = 1e-4
NETWORK_FILES = {name: f"{name}_net.npz" for name in ONE_STREAM_GOLDENS}
CONFIGS: dict[str, OSTrackConfig | GRMConfig] = {**OSTRACK_CONFIGS, **GRM_CONFIGS}


def config_of(name: str) -> OSTrackConfig | GRMConfig:
    """The configuration of the model that a golden configuration checks."""
    return CONFIGS[ONE_STREAM_GOLDENS[name]]


_kept: dict[str, dict[Any, Any]] = {}
Function = TypeVar("Function", bound=Callable[..., Any])


def keep_one(function: Function) -> Function:
    """Keep the last result of a function of a configuration's name and more.

    A result is released before the next is made, and all of them when the configuration changes.
    """
    mine = _kept.setdefault(function.__name__, {})

    @wraps(function)
    def call(name: str, *more: Any) -> Any:
        if any(other != name for kept in _kept.values() for other, *_ in kept):
            for kept in _kept.values():
                kept.clear()
        if (name, *more) not in mine:
            mine.clear()
            mine[(name, *more)] = function(name, *more)
        return mine[(name, *more)]

    call.cache_clear = mine.clear  # type: ignore[attr-defined]
    return cast(Function, call)


@keep_one
@torch.inference_mode(False)
def golden_state(name: str) -> dict[str, Tensor]:
    """The golden weights; networks share their memory."""
    weights = golden_weights(name, document(name)["seed"])
    return {key: torch.from_numpy(value) for key, value in weights.items()}


@torch.inference_mode(False)
def new_golden_network(name: str) -> OSTrackNetwork | GRMNetwork:
    """A network with golden weights, in eval mode, whose weights are shared: do not change them.

    Modules may be replaced.
    """
    network = cast(OSTrackNetwork | GRMNetwork, empty_network(ONE_STREAM_GOLDENS[name]))
    load_strictly(network, golden_state(name), name)
    return network.eval()


@keep_one
def golden_network(name: str) -> OSTrackNetwork | GRMNetwork:
    """The network with golden weights, in eval mode; copy it before changing it."""
    return new_golden_network(name)


@keep_one
def _inference(name: str, packed: bool) -> OSTrackInference | GRMInference:
    network, cpu = new_golden_network(name), torch.device("cpu")
    if packed and document(name)["parameters"] > LARGE:
        # Packed weights are a copy, made layer by layer: nothing else may hold the originals.
        for kept in (_kept["golden_network"], _kept["golden_state"]):
            kept.clear()
    if isinstance(network, GRMNetwork):
        return GRMInference(network, cpu, packed)
    return OSTrackInference(network, cpu, packed)


def golden_inference(
    name: str, packed: bool, threshold: float = 0.0
) -> OSTrackInference | GRMInference:
    """The same network as a tracker runs it, shared; the threshold is of GRM alone."""
    model = _inference(name, packed)
    if isinstance(model, GRMInference):
        model.threshold = threshold
    return model


class Forward(NamedTuple):
    """One pass of a network over the golden inputs.

    Attributes:
        prediction: Returned by the network.
        backbone: Returned by its backbone.
        leaving: (B, N, C) returned by each block.
    """

    prediction: dict[str, Tensor]
    backbone: Any
    leaving: list[Tensor]


@keep_one
@torch.inference_mode()
def golden_forward(name: str) -> Forward:
    """The pass of the golden network over all golden inputs, as configured."""
    network = golden_network(name)
    with leaving_blocks(network) as leaving, backbone_outputs(network) as outputs:
        prediction = predict(name, *inputs(name))
    return Forward(prediction, outputs[0], leaving)


@contextmanager
def backbone_outputs(network: OSTrackNetwork | GRMNetwork) -> Iterator[list[Any]]:
    """What the backbone returns, gathered while the network runs."""
    outputs: list[Any] = []
    hook = network.backbone.register_forward_hook(lambda *call: outputs.append(call[2]))
    try:
        yield outputs
    finally:
        hook.remove()


def predict(name: str, template: Tensor, search: Tensor) -> dict[str, Tensor]:
    """What the golden network returns, told of the golden template boxes."""
    network, boxes = golden_network(name), template_boxes(name, len(template))
    if isinstance(network, GRMNetwork):
        return network(template, search, boxes)
    return network(template, search, network.template_mask(boxes))


def template_boxes(name: str, batch: int) -> Tensor:
    """The golden template boxes, (batch, 4) xywh as fractions."""
    return torch.tensor(golden(NETWORK_FILES[name]).meta["template_box_normalised"])[:batch]


def inputs(name: str) -> tuple[Tensor, Tensor]:
    """Template and search region of a configuration's network golden."""
    meta = golden(NETWORK_FILES[name]).meta
    template, search = network_inputs(name, meta["seed"], meta["batch"])
    return torch.from_numpy(template), torch.from_numpy(search)


def golden_mask(name: str, template_range: str, batch: int) -> Tensor | None:
    """The template mask of a range, for the golden template boxes."""
    size = document(name)["inference"]["template_size"]
    return template_token_mask(template_range, template_boxes(name, batch), size)


def difference(found: Tensor | np.ndarray, wanted: np.ndarray) -> float:
    """Largest absolute difference; shapes must agree and NaN must meet NaN."""
    found = found.detach().numpy() if isinstance(found, Tensor) else found
    assert found.shape == wanted.shape
    np.testing.assert_array_equal(np.isnan(found), np.isnan(wanted))
    return float(np.nanmax(np.abs(found - wanted)))


def check_maps(found: dict[str, Tensor], g: Golden, prefix: str = "") -> None:
    """Compare the three maps of a network's output with recorded ones."""
    for key in MAPS:
        assert difference(found[key], g[prefix + key]) <= MAP_TOLERANCE, key


def check_features(features: np.ndarray, g: Golden) -> None:
    """Compare (B, N, C) tokens after the last norm with what was recorded of them."""
    assert difference(features[:, ::5, ::7], g["backbone_sub"]) <= FEATURE_TOLERANCE
    assert difference(features.mean(axis=-1), g["backbone_token_mean"]) <= FEATURE_TOLERANCE
    assert difference(features.std(axis=-1), g["backbone_token_std"]) <= FEATURE_TOLERANCE
    wide = features.astype(np.float64)
    stats = [wide.sum(), wide.mean(), wide.std(), wide.min(), wide.max()]
    np.testing.assert_allclose(stats[1:], g["backbone_stats"][1:], atol=FEATURE_TOLERANCE)
    np.testing.assert_allclose(stats[0] / wide.size, g["backbone_stats"][0] / wide.size, atol=1e-6)


def check_token_mask(found: np.ndarray | None, decision: np.ndarray) -> None:
    """Compare a (1, layers, n, n) token mask with (layers, n * n) recorded decisions."""
    assert found is not None
    (mask,) = found
    assert len(mask) == len(decision)
    # Decisions that rounding may turn are few, if there are any.
    assert (mask.reshape(decision.shape) != decision.astype(bool)).mean() < 1e-3


@contextmanager
def leaving_blocks(network: OSTrackNetwork | GRMNetwork) -> Iterator[list[Tensor]]:
    """What each block returns, gathered while the network runs: what the next norm is given."""
    leaving: list[Tensor] = []
    backbone = network.backbone
    norms = [cast(Block, block).norm1 for block in backbone.blocks][1:]
    hooks = [
        norm.register_forward_pre_hook(lambda _, given: leaving.append(given[0]))
        for norm in [*norms, backbone.norm]
    ]
    try:
        yield leaving
    finally:
        for hook in hooks:
            hook.remove()


def changed_weights(name: str, variant: str) -> list[tuple[Tensor, float]]:
    """What the variants of the weights scale, and by how much."""
    network = golden_network(name)
    backbone = network.backbone
    last_of_score = network.box_head.get_submodule("conv5_ctr").weight
    projection = backbone.patch_embed.get_submodule("proj")
    return {
        "lowvar": [(p, 1e-3) for p in (*projection.parameters(), backbone.pos_embed_z)]
        + [(backbone.pos_embed_x, 1e-3)],
        "clamp": [(last_of_score, 12.0)],
        "clamphi": [(last_of_score, -12.0)],
    }[variant]


@contextmanager
def scaled(changes: list[tuple[Tensor, float]]) -> Iterator[None]:
    """Scale parameters for a while."""
    kept = [parameter.clone() for parameter, _ in changes]
    try:
        for parameter, scale in changes:
            parameter.mul_(scale)
        yield
    finally:
        for (parameter, _), before in zip(changes, kept, strict=True):
            parameter.copy_(before)

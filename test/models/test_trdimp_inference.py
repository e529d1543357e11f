# SPDX-License-Identifier: Apache-2.0
"""What a tracker runs of TrDiMP's network, with a small one."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tracker_ros.models.trdimp.config import BASE, TINY
from tracker_ros.models.trdimp.inference import TrDiMPInference
from tracker_ros.models.trdimp.network import TrDiMPNetwork
from tracker_ros.models.trdimp.target_filter import apply_filter

CONFIG = replace(TINY, width=8, layers=(1, 1, 1), feature_dim=16, key_dim=8, iou_dim=16)
SIDE, TOLERANCE = 96, 1e-5

devices = pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)], ids=["cpu", "cuda"]
)


def make_network() -> TrDiMPNetwork:
    torch.manual_seed(0)
    return TrDiMPNetwork(CONFIG).eval()


def make_inputs() -> tuple[Tensor, Tensor, Tensor]:
    """Three patches, the boxes and labels in them."""
    torch.manual_seed(1)
    patches = torch.randn(3, 3, SIDE, SIDE)
    boxes = torch.tensor([[30.0, 34.0, 28.0, 24.0], [20.5, 41.0, 28.0, 24.0], [33, 30, 28, 24]])
    cells = SIDE // CONFIG.stride
    return patches, boxes, torch.rand(3, 1, cells, cells)


def answers(model: TrDiMPInference) -> list[Tensor]:
    """Everything that a tracker asks for, in its order."""
    patches, boxes, labels = (tensor.to(model.device) for tensor in make_inputs())
    first, searched = model.features(patches[:1]), model.features(patches[2:])
    classification = model.features(patches).classification
    memory = model.start_memory(classification[:2], labels[:2], limit=2)
    decoded = memory.decode(classification[:2])
    target_filter = model.initial_filter(decoded, boxes[:2])
    target_filter = model.fit(target_filter, decoded, boxes[:2], 3)
    memory.prepend(searched.classification, labels[2:])
    score = model.score(target_filter, memory.decode(searched.classification))
    modulation = model.modulation(first, boxes[0])
    return [*searched, decoded, target_filter, score, *model.refine(
        modulation, searched, boxes, BASE
    )]  # fmt: skip


@torch.no_grad()
def plain_answers() -> list[Tensor]:
    """The same from the network itself; refined boxes have a test of their own."""
    network = make_network()
    classifier, (patches, boxes, labels) = network.classifier, make_inputs()
    layer2, layer3 = network.feature_extractor(patches)
    classification = network.classification_features(layer3)
    transformer = classifier.transformer
    encoded = transformer.encode(classification[:2])
    decoded = transformer.decode(classification[:2], encoded, labels[:2])
    target_filter = classifier.filter_initializer(decoded, boxes[:2])
    steps = classifier.filter_optimizer(target_filter, decoded, boxes[:2], 3)
    memory = [2, 0]
    query = transformer.decode(
        classification[2:], transformer.encode(classification[memory]), labels[memory]
    )
    score = apply_filter(query, steps.filters[-1])[0]
    return [layer2[2:], layer3[2:], classification[2:], decoded, steps.filters[-1], score]


def check(found: list[Tensor], wanted: list[Tensor]) -> None:
    for one, other in zip(found, wanted, strict=True):
        assert one.shape == other.shape
        difference = (one.cpu() - other.cpu()).abs().max()
        assert difference <= TOLERANCE * other.abs().max()


@devices
def test_it_answers_as_the_network_does(device: str) -> None:
    found = answers(TrDiMPInference(make_network(), torch.device(device)))
    wanted = plain_answers()
    check(found[: len(wanted)], wanted)
    assert {tensor.device.type for tensor in found} == {device}


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
def test_it_lets_go_of_the_weights_as_they_were(packed: bool) -> None:
    network = make_network()
    given = [*network.parameters(), *network.buffers()]
    wanted = answers(TrDiMPInference(copy.deepcopy(network), torch.device("cpu"), packed))
    model = TrDiMPInference(network, torch.device("cpu"), packed)
    with torch.no_grad():
        for tensor in given:
            tensor.zero_()
    check(answers(model), wanted)


def test_what_it_runs_on() -> None:
    model = TrDiMPInference(make_network(), torch.device("cpu"))
    assert model.runtime_info == {"backend": "torch", "device": "cpu", "precision": "fp32"}

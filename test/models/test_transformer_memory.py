# SPDX-License-Identifier: Apache-2.0
"""The tracker's transformer memory, against the transformer run on all images anew."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tracker_ros.models.trdimp.memory import (
    FixedTransformer,
    TransformerMemory,
)
from tracker_ros.models.trdimp.memory_transformer import MemoryTransformer

CHANNELS, KEYS, SCALE = 24, 8, 0.25
TOLERANCE = 1e-6

layouts = pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])


def make_transformer() -> MemoryTransformer:
    torch.manual_seed(0)
    transformer = MemoryTransformer(CHANNELS, KEYS, SCALE).eval()
    for parameter in transformer.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, std=0.05)
    return transformer


def make_images(count: int, size: tuple[int, int] = (5, 4)) -> tuple[Tensor, Tensor]:
    """Features that resemble each other as far as neighbouring pictures do, and labels."""
    common = torch.randn(1, CHANNELS, *size)
    features = SCALE * (0.7 * common + 0.7 * torch.randn(count, CHANNELS, *size))
    return features, torch.rand(count, 1, *size)


def difference(found: Tensor, wanted: Tensor) -> float:
    assert found.shape == wanted.shape
    return float((found - wanted).abs().max() / wanted.abs().max())


def check(memory: TransformerMemory, images: Tensor, labels: Tensor, query: Tensor) -> None:
    """`memory` answers as the transformer does in double precision with just these images."""
    oracle = make_transformer().double()
    encoded = oracle.encode(images.double())
    assert len(memory) == len(images)
    assert torch.equal(memory.labels, labels)
    assert difference(memory.encoded, encoded.float()) < TOLERANCE
    decoded = oracle.decode(query.double(), encoded, labels.double())
    assert difference(memory.decode(query), decoded.float()) < TOLERANCE


@layouts
@pytest.mark.parametrize("count", [1, 2, 7])
@pytest.mark.parametrize("size", [(5, 4), (3, 7), (1, 1)])
@torch.inference_mode()
def test_first_images(count: int, size: tuple[int, int], packed: bool) -> None:
    fixed = FixedTransformer(make_transformer(), packed=packed)
    images, labels = make_images(count, size)
    memory = TransformerMemory(fixed, images, labels, limit=5)
    check(memory, images, labels, make_images(3, size)[0])


@layouts
@pytest.mark.parametrize(("first", "limit"), [(4, 6), (6, 6), (7, 3), (2, 1), (3, -1)])
@torch.inference_mode()
def test_images_enter_and_leave(first: int, limit: int, packed: bool) -> None:
    fixed = FixedTransformer(make_transformer(), packed=packed)
    images, labels = make_images(first)
    memory = TransformerMemory(fixed, images, labels, limit)
    for _ in range(8):
        image, label = make_images(1)
        memory.prepend(image, label)
        images, labels = torch.cat([image, images]), torch.cat([label, labels])
        if limit > 0:
            images, labels = images[:limit], labels[:limit]
        check(memory, images, labels, make_images(1)[0])


@torch.inference_mode()
def test_errors_do_not_grow_when_the_scene_changes_wholly() -> None:
    fixed = FixedTransformer(make_transformer(), packed=True)
    images, labels = make_images(1)
    images, labels = images.repeat(6, 1, 1, 1), labels.repeat(6, 1, 1, 1)
    memory = TransformerMemory(fixed, images, labels, limit=6)
    for update in range(150):
        # Runs of pictures that are all alike, each run unlike the one before.
        image, label = make_images(1) if update % 10 == 0 else (images[:1], labels[:1])
        memory.prepend(image, label)
        images = torch.cat([image, images])[:6]
        labels = torch.cat([label, labels])[:6]
    check(memory, images, labels, images[:1])


@torch.inference_mode()
def test_a_memory_does_not_follow_tensors_that_change_later() -> None:
    fixed = FixedTransformer(make_transformer(), packed=True)
    images, labels = make_images(3)
    given = [images.contiguous(memory_format=torch.channels_last).clone(), labels.clone()]
    memory = TransformerMemory(fixed, *given, limit=4)
    for tensor in given:
        tensor.zero_()
    image, label = make_images(1)
    memory.prepend(image, label)
    check(memory, torch.cat([image, images]), torch.cat([label, labels]), image)


@torch.inference_mode()
def test_a_memory_without_room_is_refused() -> None:
    fixed = FixedTransformer(make_transformer(), packed=False)
    with pytest.raises(ValueError, match="limited to 0 images; expected at least 1"):
        TransformerMemory(fixed, *make_images(2), limit=0)

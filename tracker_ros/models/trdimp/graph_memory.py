# SPDX-License-Identifier: Apache-2.0
"""TrDiMP's transformer as graphs over a memory of fixed size.

Paper and official code: see `memory_transformer.py`. Written for this package. What
`transformer_memory.py` adds up image by image is added up here too, by whoever calls: a graph only
says what a new image and those of the memory mean to each other. Images that are not there yet are
masked.
"""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import Tensor, nn

from tracker_ros.models.trdimp.graph_features import tokens_of, with_norm
from tracker_ros.models.trdimp.memory_transformer import (
    TEMPERATURE,
    DecoderLayer,
    KeyAttention,
    KeyHead,
    MemoryTransformer,
)
from tracker_ros.models.trdimp.transformer_memory import mean_of

_SHORTEST = 1e-12
"""Keys of no length stay so."""
_ABSENT = 1e4
"""Taken off what an absent image is worth; half precision can hold it."""


def keys_of(projection: nn.Linear, tokens: Tensor) -> Tensor:
    """(..., n, C) -> (..., n, key_dim) of length 1."""
    keys = projection(tokens).float()
    squares = keys.square().sum(dim=-1, keepdim=True)
    return (keys / squares.sqrt().clamp(min=_SHORTEST)).to(tokens.dtype)


def _projection(attention: KeyAttention) -> nn.Linear:
    return copy.deepcopy(cast(KeyHead, attention.head[0]).WK)


class MeetPart(nn.Module):
    """The encoder's attention between a new image, itself, and the images of the memory.

    Args:
        transformer: Loaded.
    """

    def __init__(self, transformer: MemoryTransformer) -> None:
        super().__init__()
        layer = cast(DecoderLayer, transformer.decoder.layers[0])
        self.projection = _projection(layer.self_attn)

    def forward(
        self, classification: Tensor, tokens: Tensor, keys: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Sums are of weighted tokens, and of the weights; see `AttendedTokens`.

        Args:
            classification: (1, C, h, w) of the new image.
            tokens: (M, n, C) of the memory.
            keys: (M, n, key_dim) of the memory.

        Returns:
            (n, key_dim) keys of the new image, its (n, C + 1) sums over itself, the (M, n, C + 1)
            sums of each image of the memory over it, and its own over each of those.
        """
        new = tokens_of(classification)
        key = keys_of(self.projection, new)
        itself = torch.exp(TEMPERATURE * (key @ key.t()) - TEMPERATURE)
        met = torch.exp(TEMPERATURE * (keys @ key.t()) - TEMPERATURE)
        columns = _with_ones(new)
        return (
            key,
            itself @ columns,
            met @ columns,
            met.transpose(1, 2) @ _with_ones(tokens),
        )


def _with_ones(tokens: Tensor) -> Tensor:
    return torch.cat([tokens, torch.ones_like(tokens[..., :1])], dim=-1)


class EncodePart(nn.Module):
    """The end of the encoder, and what the decoder attends to.

    Args:
        transformer: Loaded.
    """

    def __init__(self, transformer: MemoryTransformer) -> None:
        super().__init__()
        layer = cast(DecoderLayer, transformer.decoder.layers[0])
        self.projection = _projection(layer.cross_attn)
        self.scale = layer.norm.scale

    def forward(self, tokens: Tensor, sums: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """All of M images, also those that are not there.

        Args:
            tokens: (M, n, C).
            sums: (M, n, C + 1) over the whole memory.
            labels: (M, n, 1) where the target is.

        Returns:
            (M, n, key_dim) keys of the decoder, and (M, n, C + 1) values: encoded features times
            the label, and the label.
        """
        encoded = with_norm(tokens + mean_of(sums), self.scale)
        values = torch.cat([encoded * labels, labels], dim=-1)
        return keys_of(self.projection, encoded), values


class DecodePart(nn.Module):
    """The decoder, of one image.

    Args:
        transformer: Loaded.
    """

    def __init__(self, transformer: MemoryTransformer) -> None:
        super().__init__()
        layer = cast(DecoderLayer, transformer.decoder.layers[0])
        self.self_projection = _projection(layer.self_attn)
        self.cross_projection = _projection(layer.cross_attn)
        self.scale = layer.norm.scale

    def forward(
        self, classification: Tensor, keys: Tensor, values: Tensor, present: Tensor
    ) -> tuple[Tensor]:
        """See `MemoryTransformer.decode`.

        Args:
            classification: (1, C, h, w).
            keys: (M, n, key_dim) from `EncodePart`.
            values: (M, n, C + 1) likewise.
            present: (M, 1), 1 where there is an image, else 0.

        Returns:
            (1, C, h, w).
        """
        tokens = tokens_of(classification)
        own = keys_of(self.self_projection, tokens)
        itself = torch.softmax(TEMPERATURE * own @ own.t(), dim=-1)
        tokens = with_norm(tokens + itself @ tokens, self.scale)
        asked = TEMPERATURE * keys_of(self.cross_projection, tokens)
        fit = (asked @ keys.flatten(0, 1).t()).view(-1, *keys.shape[:2])
        fit = fit + _ABSENT * (present - 1)
        attended = torch.softmax(fit.flatten(1), dim=-1) @ values.flatten(0, 1)
        target, mask = attended[:, :-1], attended[:, -1:]
        both = with_norm(tokens * mask, self.scale) + with_norm(tokens + target, self.scale)
        return (with_norm(both, self.scale).t().reshape(classification.shape),)

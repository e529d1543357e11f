# SPDX-License-Identifier: Apache-2.0
"""TrDiMP's transformer: features remember the target's other appearances and where it was.

Paper: Wang et al., "Transformer Meets Tracker", CVPR 2021 (https://arxiv.org/abs/2103.11681),
section 3. Official code: https://github.com/594422814/TransformerTrack (MIT),
`ltr/models/target_classifier/transformer.py` and `ltr/models/layers/normalization.py`. Written
anew; the state-dict keys and shapes are the official ones.

Queries and keys go through the same projection and are scaled to length 1; values are used as they
are. The file's value projections are loaded and never run, as officially. The decoder attends
among one image's tokens with the encoder's own module, which the file names twice. What differs on
purpose is the order of the work: attention is computed for some rows at a time, and the decoder's
two attentions over the memory, which have equal weights, are one.

All functions also take a leading batch axis of independent sequences. Trackers run `memory.py`.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TEMPERATURE = 30.0
"""Factor on the dot product of two keys of length 1."""

_NORM_EPSILON = 1e-5
_ROWS = 1024


class InstanceL2Norm(nn.Module):
    """Scales every image to the root mean square `scale`, over all its channels and places."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, images: Tensor) -> Tensor:
        """(..., C, h, w) -> the same shape."""
        squares = images.square().sum(dim=(-3, -2, -1), keepdim=True)
        count = images.shape[-3:].numel()
        return images * (self.scale * (count / (squares + _NORM_EPSILON)).sqrt())


def tokens_of(images: Tensor) -> Tensor:
    """(..., N, C, h, w) -> (..., N * h * w, C), image by image and row by row."""
    return images.flatten(-2).transpose(-2, -1).flatten(-3, -2)


def images_of(tokens: Tensor, height: int, width: int) -> Tensor:
    """(..., N * h * w, C) -> (..., N, C, h, w), the inverse of `tokens_of`."""
    by_image = tokens.unflatten(-2, (-1, height * width))
    return by_image.transpose(-2, -1).unflatten(-1, (height, width))


class KeyHead(nn.Module):
    """One attention head, with one projection for queries and keys."""

    def __init__(self, feature_dim: int, key_dim: int) -> None:
        super().__init__()
        self.WK = nn.Linear(feature_dim, key_dim)
        self.WV = nn.Linear(feature_dim, feature_dim)
        for projection in (self.WK, self.WV):
            nn.init.normal_(projection.weight, std=(2.0 / projection.out_features) ** 0.5)
            nn.init.zeros_(projection.bias)

    def keys(self, tokens: Tensor) -> Tensor:
        """(..., n, C) -> (..., n, key_dim) of length 1."""
        return F.normalize(self.WK(tokens), dim=-1)


class KeyAttention(nn.Module):
    """Attention with one head, under the official file's name for it."""

    def __init__(self, feature_dim: int, key_dim: int) -> None:
        super().__init__()
        self.head = nn.ModuleList([KeyHead(feature_dim, key_dim)])

    def keys(self, tokens: Tensor) -> Tensor:
        """See `KeyHead`."""
        return cast(KeyHead, self.head[0]).keys(tokens)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Return the mean of the values, weighted by how well their keys fit the queries.

        (..., q, key_dim) queries and (..., n, key_dim) keys, both from `keys`, and (..., n, V)
        values -> (..., q, V).
        """
        transposed = keys.transpose(-2, -1)
        mixed = [
            torch.softmax(TEMPERATURE * rows @ transposed, dim=-1) @ values
            for rows in queries.split(_ROWS, dim=-2)
        ]
        return mixed[0] if len(mixed) == 1 else torch.cat(mixed, dim=-2)


class EncoderLayer(nn.Module):
    """Attention among the tokens of all memory images."""

    def __init__(self, self_attn: KeyAttention, norm: InstanceL2Norm) -> None:
        super().__init__()
        self.self_attn = self_attn
        self.norm = norm

    def forward(self, memory: Tensor) -> Tensor:
        """(..., N, C, h, w) -> the same shape; see `MemoryTransformer.encode`."""
        tokens = tokens_of(memory)
        keys = self.self_attn.keys(tokens)
        attended = self.self_attn(keys, keys, tokens)
        return self.norm(memory + images_of(attended, *memory.shape[-2:]))


class DecoderLayer(nn.Module):
    """Attention among the tokens of each query image, then from them to the memory."""

    def __init__(
        self, self_attn: KeyAttention, cross_attn: KeyAttention, norm: InstanceL2Norm
    ) -> None:
        super().__init__()
        self.self_attn = self_attn
        self.cross_attn = cross_attn
        self.norm = norm

    def attend_to_itself(self, query: Tensor) -> Tensor:
        """(..., M, C, h, w) -> the same shape, each image on its own."""
        tokens = query.flatten(-2).transpose(-2, -1)
        keys = self.self_attn.keys(tokens)
        attended = self.self_attn(keys, keys, tokens).transpose(-2, -1)
        return self.norm(query + attended.reshape(query.shape))

    def forward(self, query: Tensor, encoded: Tensor, labels: Tensor) -> Tensor:
        """See `MemoryTransformer.decode`."""
        query = self.attend_to_itself(query)
        memory, label = tokens_of(encoded), tokens_of(labels)
        attended = self.cross_attn(
            self.cross_attn.keys(tokens_of(query)),
            self.cross_attn.keys(memory),
            torch.cat([label, memory * label], dim=-1),
        )
        attended = images_of(attended, *query.shape[-2:])
        mask, target = attended[..., :1, :, :], attended[..., 1:, :, :]
        return self.norm(self.norm(query * mask) + self.norm(query + target))


class _Layers(nn.Module):
    """The one layer of a side, under the official file's name for it."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList([layer])

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.layers[0](*inputs)


class MemoryTransformer(nn.Module):
    """Encodes the memory images and decodes the images that are searched.

    Features have `feature_dim` channels and the root mean square `norm_scale`, keys `key_dim`
    channels.
    """

    def __init__(self, feature_dim: int, key_dim: int, norm_scale: float) -> None:
        super().__init__()
        norm = InstanceL2Norm(norm_scale)
        self_attn = KeyAttention(feature_dim, key_dim)
        cross_attn = KeyAttention(feature_dim, key_dim)
        self.encoder = _Layers(EncoderLayer(self_attn, norm))
        self.decoder = _Layers(DecoderLayer(self_attn, cross_attn, norm))

    def encode(self, memory: Tensor) -> Tensor:
        """Let the tokens of all memory images, ([B,] N, C, h, w), attend to each other.

        Returns the same shape, every image normalised.
        """
        return self.encoder(memory)

    def decode(self, query: Tensor, encoded: Tensor, labels: Tensor) -> Tensor:
        """Bring to images what the memory knows about the target; each image on its own.

        Args:
            query: ([B,] M, C, h, w) classification features.
            encoded: ([B,] N, C, h, w) from `encode`.
            labels: ([B,] N, 1, h, w), where the target is in each memory image.

        Returns:
            The query's shape, every image normalised.
        """
        return self.decoder(query, encoded, labels)

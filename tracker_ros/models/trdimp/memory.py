# SPDX-License-Identifier: Apache-2.0
"""The images of a target that TrDiMP's transformer remembers.

Paper: Wang et al., CVPR 2021 (https://arxiv.org/abs/2103.11681), section 3. Official code:
https://github.com/594422814/TransformerTrack (MIT), `pytracking/tracker/trdimp/trdimp.py` for the
behaviour; written anew.

`TransformerMemory` gives the numbers of `memory_transformer.py` without computing anything twice;
the order of the work is this package's own:

- Keys have length 1, so no weight exceeds exp(temperature). Weights are taken relative to that
  bound, and a sum over the memory is a sum of sums over its images.
- The encoder's sums are kept. When an image is added, the others gain its part and it gains
  theirs; nothing else is computed again. The oldest image always leaves first, so every image
  keeps one sum for each number of older images that may still be there, and one sum over the newer
  ones, which leave after it. Nothing is ever subtracted, so rounding errors do not grow.
- The decoder's two attentions over the memory have the same weights and are one product; the mask
  and the sum of the weights are two more columns of it. The memory's keys and values are kept.
- Matrices are laid out once for the matrix library (`layers/packed.py`), and rows that meet the
  same matrix are multiplied in few products: threads that share their cores with other programs
  lose time at every point where they wait for each other.

Tokens are (n, C), the n = h * w places of one image row by row.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from tracker_ros.models.layers.packed import InferenceLinear
from tracker_ros.models.trdimp.memory_transformer import (
    TEMPERATURE,
    DecoderLayer,
    KeyAttention,
    KeyHead,
    MemoryTransformer,
    images_of,
)
from tracker_ros.models.trdimp.samples import check_limit

_AT_ONCE = 5
"""Images in one product: more take more memory, fewer make threads wait for each other more."""


class AttendedTokens:
    """Keys (n, key_dim) of length 1 and values of tokens, ready to be attended to.

    Values are (V + 1, n) from `columns_of`; `packed` lays both out for oneDNN.
    """

    def __init__(self, keys: Tensor, columns: Tensor, *, packed: bool) -> None:
        bound = keys.new_full((keys.shape[0],), -TEMPERATURE)
        self._match = InferenceLinear(TEMPERATURE * keys, bound, packed=packed)
        self._mix = InferenceLinear(columns, None, packed=packed)

    def weights(self, keys: Tensor) -> Tensor:
        """(q, key_dim) of length 1 -> (q, n) in (0, 1], to be divided by their sum."""
        return self._match(keys).exp_()

    def mix(self, weights: Tensor) -> Tensor:
        """(q, n) -> (q, V + 1) sums of the weighted values, and of the weights."""
        return self._mix(weights)


def columns_of(values: Tensor) -> Tensor:
    """(n, V) -> (V + 1, n); a weighted sum of the last row is the sum of the weights."""
    columns = values.new_ones(values.shape[1] + 1, values.shape[0])
    columns[:-1] = values.T
    return columns


def mean_of(sums: Tensor) -> Tensor:
    """(..., V + 1) from `AttendedTokens.mix` -> (..., V) means of the values."""
    return sums[..., :-1] / sums[..., -1:]


class FixedTransformer:
    """The weights of a loaded transformer, prepared once; `packed` lays them out for oneDNN."""

    def __init__(self, transformer: MemoryTransformer, *, packed: bool) -> None:
        layer = cast(DecoderLayer, transformer.decoder.layers[0])
        self.packed = packed
        self._norm = layer.norm
        self._self_projection = self._projection(layer.self_attn)
        self._cross_projection = self._projection(layer.cross_attn)

    def _projection(self, attention: KeyAttention) -> InferenceLinear:
        linear = cast(KeyHead, attention.head[0]).WK
        return InferenceLinear(linear.weight, linear.bias, packed=self.packed)

    def self_keys(self, tokens: Tensor) -> Tensor:
        """(..., C) -> (..., key_dim) for the encoder, and for an image that attends to itself."""
        return F.normalize(self._self_projection(tokens), dim=-1)

    def cross_keys(self, tokens: Tensor) -> Tensor:
        """(..., C) -> (..., key_dim) for the decoder's attention over the memory."""
        return F.normalize(self._cross_projection(tokens), dim=-1)

    def attended(self, keys: Tensor, columns: Tensor) -> AttendedTokens:
        """See `AttendedTokens`."""
        return AttendedTokens(keys, columns, packed=self.packed)

    def norm(self, tokens: Tensor) -> Tensor:
        """(..., n, C) -> the same shape, every image normalised."""
        return self._norm(tokens.unsqueeze(-3)).squeeze(-3)

    def decode(self, tokens: Tensor, memory: AttendedTokens) -> Tensor:
        """Decode one image's (n, C) classification features. Returns the same shape.

        The memory's values are the C encoded features times the label, and the label.
        """
        keys = self.self_keys(tokens)
        itself = self.attended(keys, columns_of(tokens))
        tokens = self.norm(tokens + mean_of(itself.mix(itself.weights(keys))))
        attended = mean_of(memory.mix(memory.weights(self.cross_keys(tokens))))
        target, mask = attended[:, :-1], attended[:, -1:]
        return self.norm(self.norm(tokens * mask) + self.norm(tokens + target))


class TransformerMemory:
    """The images that the transformer remembers, newest first.

    Args:
        transformer: Encodes and decodes.
        classification: (N, C, h, w) features of the first images.
        labels: (N, 1, h, w), where the target is in them.
        limit: Maximum number of images after one was added; negative for no limit, 0 is refused by
            a ValueError.
    """

    def __init__(
        self,
        transformer: FixedTransformer,
        classification: Tensor,
        labels: Tensor,
        limit: int,
    ) -> None:
        check_limit(limit)
        self._transformer = transformer
        self._limit = limit
        self._size = (classification.shape[-2], classification.shape[-1])
        # By image: tokens, labels (n, 1), keys of the encoder, sums over the newer images.
        self._tokens = _by_place(classification).clone(memory_format=torch.contiguous_format)
        self._labels = _by_place(labels).clone()
        self._keys = transformer.self_keys(self._tokens)
        self._newer = _no_sums(self._tokens)
        # By image: sums over itself and 0, 1, ... older images; only the last where none leaves.
        self._older: list[list[Tensor]] = [[] for _ in self._tokens]
        self._attended = [
            transformer.attended(keys, columns_of(tokens))
            for keys, tokens in zip(self._keys, self._tokens, strict=True)
        ]
        for index in reversed(range(len(self))):
            self._meet_older(index)
        self._prepare_decoder()

    def __len__(self) -> int:
        return len(self._tokens)

    @property
    def labels(self) -> Tensor:
        """(N, 1, h, w), newest first."""
        return images_of(self._labels.flatten(0, 1), *self._size)

    @property
    def encoded(self) -> Tensor:
        """(N, C, h, w) the encoder's output, newest first."""
        return images_of(self._encode(slice(None)).flatten(0, 1), *self._size)

    @torch.inference_mode()
    def prepend(self, classification: Tensor, label: Tensor) -> None:
        """Remember one more (1, C, h, w) image with its (1, 1, h, w) label.

        The oldest images leave if there are more than the limit.
        """
        count = len(self)
        kept = count if self._limit < 0 else min(count, self._limit - 1)
        tokens = _by_place(classification).contiguous()
        keys = self._transformer.self_keys(tokens)
        attended = self._transformer.attended(keys[0], columns_of(tokens[0]))
        self._tokens = torch.cat([tokens, self._tokens[:kept]])
        self._labels = torch.cat([_by_place(label), self._labels[:kept]])
        self._keys = torch.cat([keys, self._keys[:kept]])
        self._newer = torch.cat([_no_sums(tokens), self._newer[:kept]])
        self._attended = [attended, *self._attended[:kept]]
        still_there = [sums[: len(sums) - (count - kept)] for sums in self._older[:kept]]
        self._older = [[], *still_there]
        self._meet_older(0)
        self._prepare_decoder()

    @torch.inference_mode()
    def decode(self, query: Tensor) -> Tensor:
        """(M, C, h, w) classification features -> the same shape, each image on its own."""
        decoded = [
            self._transformer.decode(tokens.contiguous(), self._memory)
            for tokens in _by_place(query)
        ]
        return images_of(torch.cat(decoded), *self._size)

    def _meet_older(self, index: int) -> None:
        """Let an image attend to itself and to those behind it, and those attend to it."""
        attended, keys = self._attended[index], self._keys[index]
        sums = [attended.mix(attended.weights(keys))]
        for part in _parts(index + 1, len(self)):
            weights = attended.weights(self._keys[part].flatten(0, 1))
            self._newer[part] += attended.mix(weights).view_as(self._newer[part])
            by_image = weights.unflatten(0, (-1, len(keys))).transpose(1, 2).contiguous()
            for other, transposed in zip(self._attended[part], by_image, strict=True):
                sums.append(sums[-1] + other.mix(transposed))
        self._older[index] = sums if self._limit > 0 else sums[-1:]

    def _encode(self, part: slice) -> Tensor:
        """Return the encoder's output for some images, (count, n, C)."""
        sums = torch.stack([older[-1] for older in self._older[part]]) + self._newer[part]
        return self._transformer.norm(self._tokens[part] + mean_of(sums))

    def _prepare_decoder(self) -> None:
        keys, columns = [], []
        for part in _parts(0, len(self)):
            encoded, labels = self._encode(part), self._labels[part]
            values = torch.cat([encoded * labels, labels], dim=-1)
            keys.append(self._transformer.cross_keys(encoded).flatten(0, 1))
            columns.append(columns_of(values.flatten(0, 1)))
        self._memory = self._transformer.attended(torch.cat(keys), torch.cat(columns, dim=1))


def _parts(start: int, end: int) -> list[slice]:
    """Divide the images `start` to `end`, so that not too many are multiplied at once."""
    return [slice(i, i + _AT_ONCE) for i in range(start, end, _AT_ONCE)]


def _by_place(images: Tensor) -> Tensor:
    """(N, C, h, w) -> (N, n, C)."""
    return images.flatten(-2).transpose(-2, -1)


def _no_sums(tokens: Tensor) -> Tensor:
    """(N, n, C) -> (N, n, C + 1) sums over nothing."""
    return tokens.new_zeros((*tokens.shape[:-1], tokens.shape[-1] + 1))

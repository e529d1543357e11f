# SPDX-License-Identifier: Apache-2.0
"""TrDiMP's transformer as a tracker runs it: `memory_transformer.py`'s numbers, nothing twice.

Paper and official code: see `memory_transformer.py`. Written for this package; what differs from
the official forward pass is the order of the work, not its result:

- Keys have length 1, so no weight exceeds exp(temperature): weights are taken relative to that
  bound, and sums over the memory can be put together from sums over each of its images.
- The encoder's sums are kept. When an image enters, the others gain its part and it gains theirs;
  nothing else is computed again. The oldest image is always the one that leaves, so every image
  keeps one sum for each number of older images that may still be there, and one sum over the newer
  ones, which stay as long as itself. Nothing is ever subtracted, so rounding errors do not grow.
- The decoder's two attentions over the memory have the same weights and are one product; the mask
  and the weights' sum are two more columns of it. The memory's keys and values are kept.
- Matrices are laid out once for the matrix library (`inference_layers.py`) and fit into the
  cache: one image's tokens against another's.

Tokens are (n, C), the n = h * w places of one image row by row.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from tracker_ros.models.inference_layers import InferenceLinear
from tracker_ros.models.trdimp.memory_transformer import (
    TEMPERATURE,
    DecoderLayer,
    KeyAttention,
    KeyHead,
    MemoryTransformer,
    images_of,
    tokens_of,
)


class AttendedImage:
    """Keys and values of one image, ready to be attended to.

    Args:
        keys: (n, key_dim) of length 1.
        values: (n, V); the sum of the weights is mixed as one more column.
        packed: Lay them out for oneDNN.
    """

    def __init__(self, keys: Tensor, values: Tensor, *, packed: bool) -> None:
        bound = keys.new_full((keys.shape[0],), -TEMPERATURE)
        self._match = InferenceLinear(TEMPERATURE * keys, bound, packed=packed)
        columns = torch.cat([values.T, values.new_ones(1, values.shape[0])])
        self._mix = InferenceLinear(columns, None, packed=packed)

    def weights(self, keys: Tensor) -> Tensor:
        """(q, key_dim) of length 1 -> (q, n) in (0, 1], to be divided by their sum."""
        return self._match(keys).exp_()

    def mix(self, weights: Tensor) -> Tensor:
        """(q, n) -> (q, V + 1) sums of the weighted values and of the weights."""
        return self._mix(weights)


def mean_of(sums: Tensor) -> Tensor:
    """(q, V + 1) from `AttendedImage.mix` -> (q, V) means of the values."""
    return sums[:, :-1] / sums[:, -1:]


class FixedTransformer:
    """The transformer's weights, prepared once.

    Args:
        transformer: Loaded, in eval mode.
        packed: Lay matrices out for oneDNN.
    """

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
        """(n, C) -> (n, key_dim) for the encoder, and for an image that attends to itself."""
        return F.normalize(self._self_projection(tokens), dim=-1)

    def cross_keys(self, tokens: Tensor) -> Tensor:
        """(n, C) -> (n, key_dim) for the decoder's attention over the memory."""
        return F.normalize(self._cross_projection(tokens), dim=-1)

    def attended(self, keys: Tensor, values: Tensor) -> AttendedImage:
        """See `AttendedImage`."""
        return AttendedImage(keys, values, packed=self.packed)

    def norm(self, tokens: Tensor) -> Tensor:
        """Normalise one image (n, C)."""
        return self._norm(tokens.unsqueeze(0)).squeeze(0)

    def decode(self, tokens: Tensor, memory: list[AttendedImage]) -> Tensor:
        """One image (n, C) -> the same shape.

        Args:
            tokens: Classification features.
            memory: Values are the C encoded features times the label, and the label.
        """
        keys = self.self_keys(tokens)
        itself = self.attended(keys, tokens)
        tokens = self.norm(tokens + mean_of(itself.mix(itself.weights(keys))))
        keys = self.cross_keys(tokens)
        sums = memory[0].mix(memory[0].weights(keys))
        for image in memory[1:]:
            sums += image.mix(image.weights(keys))
        attended = mean_of(sums)
        target, mask = attended[:, :-1], attended[:, -1:]
        return self.norm(self.norm(tokens * mask) + self.norm(tokens + target))


@dataclass
class MemoryImage:
    """One image of the memory and what the encoder gives it.

    Attributes:
        tokens: (n, C) classification features.
        label: (n, 1), where the target is.
        keys: (n, key_dim) of the encoder.
        attended: To be attended to in the encoder.
        older: (n, C + 1) sums over itself and 0, 1, ... older images; only the last of them where
            no image ever leaves.
        newer: (n, C + 1) sum over the newer images, None where there are none.
    """

    tokens: Tensor
    label: Tensor
    keys: Tensor
    attended: AttendedImage
    older: list[Tensor] = field(default_factory=list)
    newer: Tensor | None = None

    def gain(self, newcomer: AttendedImage, weights: Tensor) -> None:
        """Attend to an image that has just entered."""
        if self.newer is None:
            self.newer = newcomer.mix(weights)
        else:
            self.newer += newcomer.mix(weights)

    def attend(self) -> Tensor:
        """(n, C) mean of the memory's tokens."""
        sums = self.older[-1]
        return mean_of(sums if self.newer is None else sums + self.newer)


class TransformerMemory:
    """The images that the transformer remembers, newest first.

    Args:
        transformer: What encodes and decodes.
        classification: (N, C, h, w) features of the first images.
        labels: (N, 1, h, w), where the target is in them.
        limit: Images that may be there after one was added; negative for no limit.

    Raises:
        ValueError: The limit is 0.
    """

    def __init__(
        self,
        transformer: FixedTransformer,
        classification: Tensor,
        labels: Tensor,
        limit: int,
    ) -> None:
        if limit == 0:
            raise ValueError(
                "the transformer's memory is limited to 0 images; expected at least 1, or a "
                "negative number for no limit"
            )
        self._transformer = transformer
        self._limit = limit
        self._size = (classification.shape[-2], classification.shape[-1])
        self._images: list[MemoryImage] = []
        for index in reversed(range(classification.shape[0])):
            self._enter(classification[index, None], labels[index, None])
        self._prepare_decoder()

    def __len__(self) -> int:
        return len(self._images)

    @property
    def labels(self) -> Tensor:
        """(N, 1, h, w), newest first."""
        return images_of(torch.cat([image.label for image in self._images]), *self._size)

    @property
    def encoded(self) -> Tensor:
        """(N, C, h, w) the encoder's output, newest first."""
        return images_of(torch.cat([self._encode(image) for image in self._images]), *self._size)

    @torch.inference_mode()
    def prepend(self, classification: Tensor, label: Tensor) -> None:
        """Remember one more image; the oldest ones leave where the limit asks for it.

        Args:
            classification: (1, C, h, w).
            label: (1, 1, h, w).
        """
        while 0 < self._limit <= len(self._images):
            self._images.pop()
            for image in self._images:
                image.older.pop()
        self._enter(classification, label)
        self._prepare_decoder()

    @torch.inference_mode()
    def decode(self, query: Tensor) -> Tensor:
        """(M, C, h, w) classification features -> the same shape, each image on its own."""
        decoded = [
            self._transformer.decode(tokens_of(image).contiguous(), self._memory)
            for image in query.split(1)
        ]
        return images_of(torch.cat(decoded), *self._size)

    def _enter(self, classification: Tensor, label: Tensor) -> None:
        # Copies: the images may be parts of larger tensors, or change.
        tokens = tokens_of(classification).clone(memory_format=torch.contiguous_format)
        keys = self._transformer.self_keys(tokens)
        attended = self._transformer.attended(keys, tokens)
        newcomer = MemoryImage(tokens, tokens_of(label).clone(), keys, attended)
        total = attended.mix(attended.weights(keys))
        newcomer.older.append(total)
        for image in self._images:
            weights = attended.weights(image.keys)
            image.gain(attended, weights)
            total = total + image.attended.mix(weights.T.contiguous())
            if self._limit < 0:
                newcomer.older.clear()
            newcomer.older.append(total)
        self._images.insert(0, newcomer)

    def _encode(self, image: MemoryImage) -> Tensor:
        return self._transformer.norm(image.tokens + image.attend())

    def _prepare_decoder(self) -> None:
        self._memory: list[AttendedImage] = []
        for image in self._images:
            encoded = self._encode(image)
            values = torch.cat([encoded * image.label, image.label], dim=1)
            keys = self._transformer.cross_keys(encoded)
            self._memory.append(self._transformer.attended(keys, values))

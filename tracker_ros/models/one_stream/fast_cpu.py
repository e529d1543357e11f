# SPDX-License-Identifier: Apache-2.0
"""What the one-stream trackers share when they run: fixed blocks, embedding and head.

Written for this package; the official codes run their training modules. A template is embedded
once, not per frame, attention is fused, in the last block only search tokens get queries,
projection and MLP, batch norms are folded into the convolutions, and weights are laid out once for
the matrix library, in the precision asked for (`inference_layers.py`, `reduced_precision.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar, cast

import torch
from torch import Tensor, nn

from tracker_ros.models.layers.packed import Layers
from tracker_ros.models.layers.vit import Block
from tracker_ros.models.one_stream.network import OneStreamNetwork


class InferenceBlock:
    """One transformer block with fixed weights.

    Args:
        block: Loaded, in eval mode.
        split_queries: Whether fewer queries than keys will be asked for, so that they are
            projected apart.
        layers: Makes its layers.
    """

    def __init__(self, block: Block, *, split_queries: bool, layers: Layers) -> None:
        self.norm1, self.norm2 = block.norm1, block.norm2
        self.attend = layers.attend
        self.heads = block.attn.num_heads
        qkv, width = block.attn.qkv, block.attn.proj.in_features
        self.split_queries = split_queries
        if split_queries:
            self.to_q = layers.linear(qkv.weight[:width], qkv.bias[:width])
            self.to_kv = layers.linear(qkv.weight[width:], qkv.bias[width:])
        else:
            self.to_qkv = layers.linear(qkv.weight, qkv.bias)
        proj, fc1, fc2 = block.attn.proj, block.mlp.fc1, block.mlp.fc2
        self.proj = layers.linear(proj.weight, proj.bias)
        self.fc1 = layers.linear(fc1.weight, fc1.bias, gelu=True)
        self.fc2 = layers.linear(fc2.weight, fc2.bias)

    def _split(self, projected: Tensor, parts: int) -> tuple[Tensor, ...]:
        """(B, N, parts * C) -> `parts` tensors (B, heads, N, head_dim)."""
        split = projected.unflatten(2, (parts, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return split.unbind(0)

    def _finish(self, tokens: Tensor, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attention and MLP of the tokens that the queries belong to."""
        mixed = self.attend(query, key, value)
        return self._project(tokens, mixed.transpose(1, 2))

    def _project(self, tokens: Tensor, mixed: Tensor) -> Tensor:
        """The rest of the block: (B, N, C) tokens, (B, N, heads, head_dim) weighted values."""
        tokens = tokens + self.proj(mixed.flatten(2))
        return tokens + self.fc2(self.fc1(self.norm2(tokens)))

    def __call__(self, tokens: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        return self._finish(tokens, *self._split(self.to_qkv(self.norm1(tokens)), 3))

    def search_only(self, tokens: Tensor, num_template: int) -> Tensor:
        """(B, N, C) -> (B, N - num_template, C): template tokens are keys and values only."""
        normed = self.norm1(tokens)
        key, value = self._split(self.to_kv(normed), 2)
        (query,) = self._split(self.to_q(normed[:, num_template:]), 1)
        return self._finish(tokens[:, num_template:], query, key, value)


BlockT = TypeVar("BlockT", bound=InferenceBlock)


class OneStreamInference(Generic[BlockT]):
    """A trained network's embedding, blocks and last norm, prepared to follow targets.

    Args:
        network: Loaded, in eval mode; its modules are taken over and changed.
        device: Where it runs.
        layers: Makes the layers.
        fix: Makes the fixed form of a block, given the block and its number.
    """

    def __init__(
        self,
        network: OneStreamNetwork,
        device: torch.device,
        layers: Layers,
        fix: Callable[[Block, int], BlockT],
    ) -> None:
        self.device = device
        self.precision = layers.precision
        backbone = network.eval().to(device).backbone
        backbone.patch_embed = layers.fix(backbone.patch_embed)
        self.embed_template, self.embed_search = backbone.embed_template, backbone.embed_search
        self.blocks: list[BlockT] = []
        for layer, block in enumerate(backbone.blocks):
            self.blocks.append(fix(cast(Block, block), layer))
            # Lets go of the weights as they were, so that they are never all there twice.
            backbone.blocks[layer] = nn.Identity()
        self.norm = backbone.norm

    @property
    def runtime_info(self) -> dict[str, str]:
        """Back end, device and precision in use."""
        return {"backend": "torch", "device": str(self.device), "precision": self.precision}

# SPDX-License-Identifier: Apache-2.0
"""What the one-stream trackers share when they run: fixed blocks, embedding and head.

Written for this package; the official codes run their training modules. A template is embedded
once, not per frame, attention is fused, in the last block only search tokens get queries,
projection and MLP, batch norms are folded into the convolutions, and weights are laid out once for
the matrix library (`inference_layers.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tracker_ros.models.inference_layers import InferenceLinear, can_pack, for_inference
from tracker_ros.models.one_stream_network import OneStreamNetwork
from tracker_ros.models.vit import Block


class InferenceBlock:
    """One transformer block with fixed weights.

    Args:
        block: Loaded, in eval mode.
        split_queries: Whether fewer queries than keys will be asked for, so that they are
            projected apart.
        packed: Lay weights out for oneDNN.
    """

    def __init__(self, block: Block, *, split_queries: bool, packed: bool) -> None:
        self.norm1, self.norm2 = block.norm1, block.norm2
        self.heads = block.attn.num_heads
        qkv, width = block.attn.qkv, block.attn.proj.in_features
        self.split_queries = split_queries
        if split_queries:
            self.to_q = InferenceLinear(qkv.weight[:width], qkv.bias[:width], packed=packed)
            self.to_kv = InferenceLinear(qkv.weight[width:], qkv.bias[width:], packed=packed)
        else:
            self.to_qkv = InferenceLinear(qkv.weight, qkv.bias, packed=packed)
        proj, fc1, fc2 = block.attn.proj, block.mlp.fc1, block.mlp.fc2
        self.proj = InferenceLinear(proj.weight, proj.bias, packed=packed)
        self.fc1 = InferenceLinear(fc1.weight, fc1.bias, packed=packed, gelu=True)
        self.fc2 = InferenceLinear(fc2.weight, fc2.bias, packed=packed)

    def _split(self, projected: Tensor, parts: int) -> tuple[Tensor, ...]:
        """(1, N, parts * C) -> `parts` tensors (1, heads, N, head_dim)."""
        split = projected.unflatten(2, (parts, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return split.unbind(0)

    def _finish(self, tokens: Tensor, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attention and MLP of the tokens that the queries belong to."""
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self._project(tokens, mixed.transpose(1, 2))

    def _project(self, tokens: Tensor, mixed: Tensor) -> Tensor:
        """The rest of the block: (1, N, C) tokens, (1, N, heads, head_dim) weighted values."""
        tokens = tokens + self.proj(mixed.flatten(2))
        return tokens + self.fc2(self.fc1(self.norm2(tokens)))

    def __call__(self, tokens: Tensor) -> Tensor:
        """(1, N, C) -> (1, N, C)."""
        return self._finish(tokens, *self._split(self.to_qkv(self.norm1(tokens)), 3))

    def search_only(self, tokens: Tensor, num_template: int) -> Tensor:
        """(1, N, C) -> (1, N - num_template, C): template tokens are keys and values only."""
        normed = self.norm1(tokens)
        key, value = self._split(self.to_kv(normed), 2)
        (query,) = self._split(self.to_q(normed[:, num_template:]), 1)
        return self._finish(tokens[:, num_template:], query, key, value)


BlockT = TypeVar("BlockT", bound=InferenceBlock)


class OneStreamInference(Generic[BlockT]):
    """A trained network's embedding, blocks and last norm, prepared to follow one target.

    Args:
        network: Loaded, in eval mode; its modules are taken over and changed.
        device: Where it runs.
        packed: Use oneDNN's prepacked layers; None decides by what this build of torch has.
        fix: Makes the fixed form of a block, given the block, its layer and `packed`.
    """

    def __init__(
        self,
        network: OneStreamNetwork,
        device: torch.device,
        packed: bool | None,
        fix: Callable[[Block, int, bool], BlockT],
    ) -> None:
        self.device = device
        self.packed = can_pack(device) if packed is None else packed
        backbone = network.eval().to(device).backbone
        backbone.patch_embed = for_inference(backbone.patch_embed, packed=self.packed)
        self.embed_template, self.embed_search = backbone.embed_template, backbone.embed_search
        self.blocks: list[BlockT] = []
        for layer, block in enumerate(backbone.blocks):
            self.blocks.append(fix(cast(Block, block), layer, self.packed))
            # Lets go of the weights as they were, so that they are never all there twice.
            backbone.blocks[layer] = nn.Identity()
        self.norm = backbone.norm

    @property
    def runs_on(self) -> dict[str, str]:
        """Back end, device and precision in use."""
        return {"backend": "torch", "device": str(self.device), "precision": "fp32"}

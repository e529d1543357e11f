# SPDX-License-Identifier: Apache-2.0
"""Vision transformer parts: patch embedding or stem, attention, MLP and the pre-norm block.

Paper: Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021
(https://arxiv.org/abs/2010.11929). Parameter names follow timm's `vision_transformer.py`
(Apache-2.0), on which the official one-stream trackers are built; the code is written anew.

What differs on purpose: attention is fused (no matrix is stored), and a block can be told that
only some of its tokens are read afterwards; it then computes queries, projection and MLP for those
alone.

The compact models replace the patch embedding by a convolutional stem. Paper: Xiao et al., "Early
Convolutions Help Transformers See Better", NeurIPS 2021 (https://arxiv.org/abs/2106.14881): with a
few small strided convolutions in place of the one projection with a large stride, a vision
transformer trains faster and needs less data. Written for this package; it differs from the paper
by one residual convolution before the last stride.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def gather_tokens(tokens: Tensor, index: Tensor) -> Tensor:
    """Return the rows `index` (B, k) of `tokens` (B, N, C), as (B, k, C)."""
    return tokens.gather(1, index.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


class PatchEmbed(nn.Module):
    """Projects each patch of `stride` x `stride` pixels to `embed_dim` channels."""

    def __init__(self, stride: int, embed_dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, embed_dim, kernel_size=stride, stride=stride)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) normalised image -> (B, embed_dim, H / stride, W / stride)."""
        return self.proj(image)


class Attention(nn.Module):
    """Multi-head attention with packed query, key and value projections (in that order)."""

    def __init__(self, embed_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = embed_dim // num_heads
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim)
        self.proj = nn.Linear(embed_dim, embed_dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Let every token attend to every token: (B, N, C) -> (B, N, C)."""
        batch, count, _ = tokens.shape
        packed = self.qkv(tokens).view(batch, count, 3, self.num_heads, self.head_dim)
        query, key, value = packed.permute(2, 0, 3, 1, 4).unbind(0)
        return self.attend(query, key, value)

    def keys_values(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N, C) -> keys and values, each (B, heads, N, head_dim)."""
        batch, count, width = tokens.shape
        packed = F.linear(tokens, self.qkv.weight[width:], self.qkv.bias[width:])
        packed = packed.view(batch, count, 2, self.num_heads, self.head_dim)
        key, value = packed.permute(2, 0, 3, 1, 4).unbind(0)
        return key, value

    def queries(self, tokens: Tensor) -> Tensor:
        """(B, n, C) -> (B, heads, n, head_dim)."""
        batch, count, width = tokens.shape
        query = F.linear(tokens, self.qkv.weight[:width], self.qkv.bias[:width])
        return query.view(batch, count, self.num_heads, self.head_dim).transpose(1, 2)

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return the projected weighted values of (B, heads, n, head_dim) queries: (B, n, C)."""
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.proj(mixed.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Two linear layers with an exact GELU between."""

    def __init__(self, embed_dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(embed_dim, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, embed_dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        return self.fc2(self.act(self.fc1(tokens)))


class DropPath(nn.Module):
    """Stochastic depth: drops a residual branch of a whole sample while training."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, branch: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C), some samples zeroed and the others scaled up to match."""
        if self.rate == 0.0 or not self.training:
            return branch
        keep = 1.0 - self.rate
        chosen = torch.rand(branch.shape[0], 1, 1, device=branch.device) < keep
        return branch * (chosen / keep).to(branch.dtype)


class Block(nn.Module):
    """Pre-norm transformer block.

    Args:
        embed_dim: Channels of a token.
        num_heads: Attention heads.
        mlp_ratio: Hidden channels of the MLP over `embed_dim`.
        layer_norm_eps: Epsilon of both layer norms.
        drop_path_rate: Probability of dropping each residual branch while training.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        mlp_ratio: float,
        layer_norm_eps: float,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dim, eps=layer_norm_eps)
        self.attn = Attention(embed_dim, num_heads)
        self.drop_path = DropPath(drop_path_rate)
        self.norm2 = nn.LayerNorm(embed_dim, eps=layer_norm_eps)
        self.mlp = Mlp(embed_dim, int(embed_dim * mlp_ratio))

    def forward(self, tokens: Tensor, first: int = 0) -> Tensor:
        """(B, N, C) -> (B, N - first, C).

        Tokens before the index `first` serve only as keys and values and are not returned.
        """
        normed = self.norm1(tokens)
        if first == 0:
            mixed = self.attn(normed)
        else:
            key, value = self.attn.keys_values(normed)
            mixed = self.attn.attend(self.attn.queries(normed[:, first:]), key, value)
        tokens = tokens[:, first:] + self.drop_path(mixed)
        return tokens + self.drop_path(self.mlp(self.norm2(tokens)))


def conv_norm(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """Return a 3 x 3 convolution with batch norm."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
    )


class ConvStem(nn.Module):
    """Embeds images by 3 x 3 convolutions with a total stride of `2 ** (len(channels) + 1)`.

    Args:
        channels: Channels after each stride-2 convolution except the last.
        embed_dim: Channels of the output.
    """

    def __init__(self, channels: tuple[int, ...], embed_dim: int) -> None:
        super().__init__()
        widths = (3, *channels)
        self.downsample = nn.ModuleList(
            conv_norm(widths[i], widths[i + 1], stride=2) for i in range(len(channels))
        )
        self.residual = conv_norm(channels[-1], channels[-1], stride=1)
        self.project = nn.Conv2d(channels[-1], embed_dim, 3, stride=2, padding=1)
        self.activation = nn.ReLU(inplace=True)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) normalised image -> (B, embed_dim, H / stride, W / stride)."""
        x = image
        for layer in self.downsample:
            x = self.activation(layer(x))
        x = self.activation(x + self.residual(x))
        return self.project(x)

# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import torch

from tracker_ros.models.layers.vit import Attention, Block, DropPath, PatchEmbed


def make_block() -> Block:
    torch.manual_seed(0)
    return Block(embed_dim=12, num_heads=3, mlp_ratio=2.0, layer_norm_eps=1e-6).eval()


def test_patches_are_projected_one_by_one() -> None:
    embed = PatchEmbed(stride=4, embed_dim=6)
    image = torch.rand(1, 3, 8, 12)
    found = embed(image)
    assert found.shape == (1, 6, 2, 3)
    patch = image[:, :, 4:8, 8:12].flatten(1)
    wanted = patch @ embed.proj.weight.flatten(1).T + embed.proj.bias
    torch.testing.assert_close(found[:, :, 1, 2], wanted)


def test_attention_is_softmax_of_scaled_products() -> None:
    torch.manual_seed(0)
    attention = Attention(embed_dim=12, num_heads=3)
    tokens = torch.rand(2, 5, 12)
    query, key, value = attention.qkv(tokens).view(2, 5, 3, 3, 4).permute(2, 0, 3, 1, 4)
    weights = (query @ key.transpose(-2, -1) / 2.0).softmax(dim=-1)
    wanted = attention.proj((weights @ value).transpose(1, 2).flatten(2))
    torch.testing.assert_close(attention(tokens), wanted)


def test_block_can_return_only_its_last_tokens() -> None:
    block, tokens = make_block(), torch.rand(2, 7, 12)
    torch.testing.assert_close(block(tokens, first=3), block(tokens)[:, 3:])


def test_drop_path_drops_whole_samples_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    drop, branch = DropPath(0.5), torch.ones(4000, 2, 3)
    kept = drop.train()(branch)
    per_sample = kept.flatten(1)
    assert set(per_sample.unique().tolist()) == {0.0, 2.0}
    assert (per_sample == per_sample[:, :1]).all()
    assert abs(kept.mean().item() - 1.0) < 0.05
    assert drop.eval()(branch) is branch

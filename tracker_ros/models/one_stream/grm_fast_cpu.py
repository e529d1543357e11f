# SPDX-License-Identifier: Apache-2.0
"""GRM as a tracker runs it, without computing the pairs of tokens that may not attend.

Paper and official code: see `grm.py`. Written for this package; the numbers are those of `grm.py`,
computed in a different order:

- All that every one-stream tracker shares: see `fast_cpu.py`.
- On a CPU each block sorts its tokens into template, second category and first category. The keys
  of each of the three are then contiguous, and three fused attentions replace the dense one
  (`grouped_attention`). The official softmax leaves a trace of weight on masked pairs, which grows
  with the score of the masked pair; it is added in closed form.
- The first layer of the division predictor treats the template as one row, not as one row per
  search token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from tracker_ros.models.layers.center_head import HeadMaps
from tracker_ros.models.layers.packed import InferenceLinear, Layers, in_float32
from tracker_ros.models.layers.vit import Block, gather_tokens
from tracker_ros.models.one_stream.config import GRMConfig
from tracker_ros.models.one_stream.fast_cpu import InferenceBlock, OneStreamInference
from tracker_ros.models.one_stream.grm import (
    EPSILON,
    DividingBlock,
    GRMNetwork,
    attention_mask,
    decide,
    masked_softmax,
    summarise_template,
    template_tokens_in_box,
)


def can_group(device: torch.device) -> bool:
    """Return whether attention by groups is faster and this build of torch supports it."""
    # Group sizes are data: a GPU would stall on each, and dense products cost it little.
    return device.type == "cpu" and hasattr(
        torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu"
    )


def dense_attention(query: Tensor, key: Tensor, value: Tensor, second: Tensor) -> Tensor:
    """Return weighted values, computing every pair as the official code does.

    Args:
        query: (B, heads, n, head_dim) of the last n tokens.
        key: (B, heads, N, head_dim) of all tokens, template first.
        value: Same shape as `key`.
        second: (B, N - template tokens) bool, search tokens of the second category.

    Returns:
        (B, n, heads, head_dim).
    """
    category = F.one_hot(second.long(), 2).to(query.dtype)
    mask = attention_mask(category, key.shape[2] - second.shape[1])[:, -query.shape[2] :]
    scores = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5
    return (masked_softmax(scores, mask) @ value).transpose(1, 2)


def grouped_attention(query: Tensor, key: Tensor, value: Tensor, second: Tensor) -> Tensor:
    """Return what `dense_attention` does, for one target with its tokens sorted by category.

    The keys are in the order template, second, first category; so `second` (N - template tokens,)
    begins with True. The queries are those of all tokens, or of the search tokens.
    """
    count = key.shape[2]
    template, near = count - len(second), count - len(second) + int(second.sum())
    absent = count - query.shape[2]
    mean = value.mean(dim=2, keepdim=True)
    groups = (
        (slice(0, template), slice(0, near), slice(near, count)),
        (slice(template, near), slice(0, count), slice(0, 0)),
        (slice(near, count), slice(template, count), slice(0, template)),
    )
    mixed = []
    for rows, allowed, masked in groups:
        asked = query[:, :, max(rows.start - absent, 0) : max(rows.stop - absent, 0)]
        if asked.shape[2]:
            hidden = key[:, :, masked]
            mixed.append(
                _with_trace(asked, key[:, :, allowed], value[:, :, allowed], hidden, mean)
            )
    return torch.cat(mixed, dim=1)


def _with_trace(query: Tensor, key: Tensor, value: Tensor, masked: Tensor, mean: Tensor) -> Tensor:
    """Attend to `key`, with the trace of weight that the official softmax leaves on `masked`.

    The official weights are (e + epsilon / N) / (sum + epsilon), with e relative to the largest
    score of the row, masked ones included. That is the softmax over the allowed keys, mixed with
    the mean of all values in the proportion epsilon / (sum + epsilon). The proportion is below
    1e-6 unless a masked score exceeds the log-sum of the allowed ones; elsewhere the sum is taken
    as 1. Returns (1, n, heads, head_dim).
    """
    mixed, log_sum = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value)
    if masked.shape[2]:
        peak = (query @ masked.transpose(-2, -1)).amax(dim=-1) * query.shape[-1] ** -0.5
        total = (log_sum - peak).clamp(max=0.0).exp()
        mixed = mixed.lerp(mean, (EPSILON / (total + EPSILON)).unsqueeze(-1))
    return mixed.transpose(1, 2)


class DividingInferenceBlock(InferenceBlock):
    """A `DividingBlock` with fixed weights.

    With `split_queries` it returns search tokens only; with `grouped` it computes attention by
    groups. For the others see `GRMConfig`.
    """

    def __init__(
        self,
        block: DividingBlock,
        *,
        split_queries: bool,
        layers: Layers,
        target_type: str,
        threshold: float,
        grouped: bool,
    ) -> None:
        super().__init__(block, split_queries=split_queries, layers=layers)
        self.target_type, self.threshold, self.grouped = target_type, threshold, grouped
        first, _, middle, _, last = cast(Any, block.attn.divide_predict)
        width, packed = block.attn.proj.in_features, layers.packed
        # The decision is binary and cheap, so it stays in float32.
        self.of_search = InferenceLinear(first.weight[:, :width], None, packed=packed, gelu=True)
        self.of_template = InferenceLinear(first.weight[:, width:], first.bias, packed=packed)
        self.narrow = InferenceLinear(middle.weight, middle.bias, packed=packed, gelu=True)
        self.choose = InferenceLinear(last.weight, last.bias, packed=packed)

    def divide(self, normed: Tensor, num_template: int, template_mask: Tensor | None) -> Tensor:
        """(B, N, C) normed tokens -> (B, Nx) bool, True for tokens of the second category."""
        template, search = normed[:, :num_template], normed[:, num_template:]
        summary = summarise_template(template, self.target_type, template_mask)
        bias = self.of_template(summary)[:, 0]
        # The bias is fused into the product, and differs from target to target.
        hidden = torch.cat([self.of_search(search[i : i + 1], bias[i]) for i in range(len(bias))])
        logits = self.choose(self.narrow(hidden))
        return decide(logits.log_softmax(dim=-1), self.threshold)

    def divided(
        self, tokens: Tensor, num_template: int, template_mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Run the block.

        Args:
            tokens: (B, N, C), template first, search tokens in raster order.
            num_template: Number of template tokens.
            template_mask: (B, Nz), for the "roi" target types.

        Returns:
            (B, N, C), or (B, Nx, C) with `split_queries`, in the same order; and (B, Nx) bool,
            True for search tokens of the second category, which are compared with the template.
        """
        normed = self.norm1(tokens)
        second = self.divide(normed, num_template, template_mask)
        skipped = num_template if self.split_queries else 0
        if not self.grouped:
            mixed = dense_attention(*self._project_apart(normed, skipped), second)
            return self._project(tokens[:, skipped:], mixed), second
        by_group = second.logical_not().to(torch.uint8).argsort(dim=1, stable=True)
        template = torch.arange(num_template, device=tokens.device).expand(len(tokens), -1)
        order = torch.cat([template, num_template + by_group], dim=1)
        parts = self._project_apart(gather_tokens(normed, order), skipped)
        # Group sizes differ from target to target.
        each = zip(*(part.split(1) for part in parts), second.gather(1, by_group), strict=True)
        mixed = torch.cat([grouped_attention(*one) for one in each])
        back = (order[:, skipped:] - skipped).argsort(dim=1)
        return self._project(tokens[:, skipped:], gather_tokens(mixed.flatten(2), back)), second

    def _project_apart(self, normed: Tensor, skipped: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries of all but the first `skipped` tokens, and keys and values of all."""
        if not self.split_queries:
            query, key, value = self._split(self.to_qkv(normed).float(), 3)
            return query, key, value
        key, value = self._split(self.to_kv(normed).float(), 2)
        (query,) = self._split(self.to_q(normed[:, skipped:]).float(), 1)
        return query, key, value


class EncodedTemplate(NamedTuple):
    """The template as the tracker keeps it.

    Attributes:
        tokens: (B, Nz, C) embedded, with positions.
        mask: (B, Nz) of 0 and 1; 1 for tokens that the target's box touches.
    """

    tokens: Tensor
    mask: Tensor


class GRMInference(OneStreamInference):
    """A trained network, prepared for tracking; see `OSTrackInference`.

    The threshold is that of the division, see `GRMConfig.threshold_of`. `grouped` computes
    attention by groups; None does so where `can_group` allows.
    """

    config: GRMConfig

    def __init__(
        self,
        network: GRMNetwork,
        device: torch.device,
        packed: bool | None = None,
        *,
        threshold: float = 0.0,
        grouped: bool | None = None,
        precision: str = "fp32",
    ) -> None:
        config = network.config
        layers = Layers.on(device, precision, packed)
        by_group = can_group(device) if grouped is None else grouped

        def fix(block: Block, layer: int) -> InferenceBlock:
            if not isinstance(block, DividingBlock):
                return InferenceBlock(block, split_queries=False, layers=layers)
            return DividingInferenceBlock(
                block,
                split_queries=layer == config.depth - 1,
                layers=layers,
                target_type=config.target_type,
                threshold=threshold,
                grouped=by_group,
            )

        super().__init__(network, device, layers, fix)
        self.head = layers.fix_head(network.box_head)

    @torch.inference_mode()
    @in_float32
    def encode_template(self, template: Tensor, box_xywh: Tensor) -> EncodedTemplate:
        """See `OSTrackInference.encode_template`."""
        box = box_xywh.to(self.device)
        tokens = self.embed_template(template.to(self.device), box)
        return EncodedTemplate(tokens, template_tokens_in_box(box, self.config.template_grid))

    @torch.inference_mode()
    @in_float32
    def locate(self, template: EncodedTemplate, search: Tensor) -> HeadMaps:
        """Return the maps of search regions (B, 3, S, S), normalised RGB, one per template."""
        num_template = template.tokens.shape[1]
        tokens = torch.cat([template.tokens, self.embed_search(search.to(self.device))], dim=1)
        decisions = []
        for block in self.blocks:
            if isinstance(block, DividingInferenceBlock):
                tokens, second = block.divided(tokens, num_template, template.mask)
                decisions.append(second)
            else:
                tokens = block(tokens)
        self._masks = decisions
        n = self.config.search_grid
        return self.head(self.norm(tokens).transpose(1, 2).unflatten(2, (n, n)))

    @torch.inference_mode()
    def locate_batch(self, templates: Sequence[EncodedTemplate], searches: Tensor) -> HeadMaps:
        """Return the maps of one (3, S, S) search region per template, in one pass."""
        stacked = EncodedTemplate(*(torch.cat(parts) for parts in zip(*templates, strict=True)))
        return self.locate(stacked, searches)

# SPDX-License-Identifier: Apache-2.0
"""Transformer layers on a CPU in the precision that was asked for: fp32, bf16 or int8.

In bf16, weights and what the layers exchange are bfloat16, sums are float32, and so is the stream
of tokens that blocks add to. In int8, the weights of linear layers are 8-bit integers with one
scale per output, and what comes in is rounded to 8 bits by its own smallest and largest value in
every frame, so that nothing needs calibrating; the rest is as in bf16, or in float32 where the
processor has no bfloat16. Norms, softmax and sums stay float32 throughout. Written for this
package; the official codes have no counterpart.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tracker_ros.models.center_head import BRANCHES, CenterHead
from tracker_ros.models.inference_layers import InferenceLinear, can_pack, for_inference

Linear = Callable[[Tensor], Tensor]


def _has(name: str) -> bool:
    """Whether this build of torch knows a feature of CPUs by that name, and this one has it."""
    return bool(getattr(torch.cpu, name, lambda: False)())


def can_bfloat16(device: torch.device) -> bool:
    """Whether products of bfloat16 are faster than those of float32 on `device`."""
    return can_pack(device) and (
        _has("_is_avx512_bf16_supported") or _has("_is_amx_tile_supported")
    )


def can_int8(device: torch.device) -> bool:
    """Whether 8-bit products are exact and fast on `device`: a CPU with VNNI."""
    # Without VNNI, pairs of products are added in 16 bits, which they may not fit in.
    return (
        device.type == "cpu"
        and hasattr(torch, "quantize_per_channel")
        and hasattr(torch.ops.quantized, "linear_dynamic")
        and _has("_is_vnni_supported")
    )


def precisions(device: torch.device) -> tuple[str, ...]:
    """What `Layers` can have on `device`, most exact first."""
    reduced = {"bf16": can_bfloat16(device), "int8": can_int8(device)}
    return ("fp32", *(name for name, possible in reduced.items() if possible))


class BFloat16Linear:
    """`x W^T + b` in bfloat16, summed in float32, with an optional exact GELU.

    Args:
        weight: (outputs, inputs) float32.
        bias: (outputs,) float32, or None.
        gelu: Apply a GELU to the result.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, *, gelu: bool = False) -> None:
        rounded = weight.detach().bfloat16().contiguous()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(rounded, None)
        self.bias = None if bias is None else bias.detach().bfloat16()
        self.activation = "gelu" if gelu else "none"

    def __call__(self, tokens: Tensor) -> Tensor:
        """(..., inputs) of any floating type -> (..., outputs) bfloat16."""
        return torch.ops.mkldnn._linear_pointwise(
            tokens.bfloat16(), self.weight, self.bias, self.activation, [], "none"
        )


class Int8Linear:
    """`x W^T + b` with 8-bit factors, with an optional exact GELU.

    Args:
        weight: (outputs, inputs) float32.
        bias: (outputs,) float32, or None.
        gelu: Apply a GELU to the result.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, *, gelu: bool = False) -> None:
        weight = weight.detach().contiguous()
        scale = weight.abs().amax(dim=1).double().clamp(min=1e-12) / 127.0
        middle = torch.zeros(len(weight), dtype=torch.int64)
        with warnings.catch_warnings():
            # torch means to replace its 8-bit tensors; `can_int8` asks whether they are there.
            warnings.filterwarnings("ignore", message=".*quantize_per_channel.*deprecated")
            rounded = torch.quantize_per_channel(weight, scale, middle, 0, torch.qint8)
        kept = None if bias is None else bias.detach()
        self.packed = torch.ops.quantized.linear_prepack(rounded, kept)
        self.gelu = gelu

    def __call__(self, tokens: Tensor) -> Tensor:
        """(..., inputs) of any floating type -> (..., outputs) float32."""
        result = torch.ops.quantized.linear_dynamic(tokens.float(), self.packed)
        return F.gelu(result) if self.gelu else result


def bfloat16_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Weighted values (B, heads, n, head_dim); products in bfloat16, softmax in float32."""
    query = (query * query.shape[-1] ** -0.5).bfloat16()
    scores = query @ key.bfloat16().transpose(-2, -1)
    return scores.float().softmax(dim=-1).bfloat16() @ value.bfloat16()


@dataclass(frozen=True)
class Layers:
    """Makes the layers of one precision.

    Attributes:
        precision: "fp32", "bf16" or "int8".
        packed: Lay float32 weights out for oneDNN.
        bfloat16: Compute attention and convolutions in bfloat16.
    """

    precision: str
    packed: bool
    bfloat16: bool

    @classmethod
    def on(
        cls, device: torch.device, precision: str = "fp32", packed: bool | None = None
    ) -> Layers:
        """The layers for a device.

        Args:
            device: Where they run.
            precision: One of `precisions(device)`.
            packed: Use oneDNN's prepacked layers; None decides by what this build of torch has.

        Raises:
            ValueError: The device does not have the precision.
        """
        if precision not in precisions(device):
            raise ValueError(
                f"precision {precision!r} is not available on {device}; expected "
                f"{' or '.join(precisions(device))} (bf16 needs a CPU with AVX-512-BF16 or AMX, "
                "int8 one with VNNI, and a build of torch with oneDNN)"
            )
        reduced = precision != "fp32" and can_bfloat16(device)
        return cls(precision, can_pack(device) if packed is None else packed, reduced)

    def linear(self, weight: Tensor, bias: Tensor | None, *, gelu: bool = False) -> Linear:
        """A linear layer, with an optional exact GELU."""
        if self.precision == "int8":
            return Int8Linear(weight, bias, gelu=gelu)
        if self.precision == "bf16":
            return BFloat16Linear(weight, bias, gelu=gelu)
        return InferenceLinear(weight, bias, packed=self.packed, gelu=gelu)

    def fix(self, module: nn.Module) -> nn.Module:
        """See `for_inference`."""
        dtype = torch.bfloat16 if self.bfloat16 else torch.float32
        return for_inference(module, packed=self.packed, dtype=dtype)

    def fix_head(self, head: CenterHead) -> CenterHead:
        """The same for a head; what it returns is not rounded, since boxes are read from it."""
        for branch in BRANCHES:
            last = for_inference(head.get_submodule(f"conv5_{branch}"), packed=self.packed)
            setattr(head, f"conv5_{branch}", last)
        return cast(CenterHead, self.fix(head))

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Weighted values of (B, heads, n, head_dim) queries."""
        if self.bfloat16:
            return bfloat16_attention(query, key, value)
        return F.scaled_dot_product_attention(query, key, value)

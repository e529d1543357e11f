# SPDX-License-Identifier: Apache-2.0
"""Lets the linear layers of an ONNX graph multiply 8-bit integers, in ONNX Runtime on a CPU.

Weights are rounded to 65 steps on either side of zero, with one scale for each output; inputs to
256 steps between the least and the largest value of each call, so nothing needs calibration.
Processors without VNNI add pairs of products in 16 bits. Weights of 127 steps could overflow
there, and results would depend on the processor. Convolutions, attention, norms and sums stay
float32. A graph holds its weights in float32 still, and they are rounded when it is loaded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx

STEPS = 64
_SCOPES = "pkg.torch.onnx.name_scopes"
_DOMAIN = "com.microsoft"


def round_linear_layers(model: onnx.ModelProto, but: Collection[str] = ()) -> int:
    """Replace products with constant matrices by products of integers; return how many.

    Args:
        model: As torch exports it, float32; changed in place.
        but: Linear layers stay as they are in modules of which one of these names is a part.
    """
    from onnx import helper, numpy_helper

    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    uses = Counter(name for node in graph.node for name in node.input)
    users = {name: node for node in graph.node for name in node.input}
    kept, merged, rounded = [], set(), 0
    for node in graph.node:
        if node.output[0] in merged:
            continue
        weight = constants.get(node.input[1]) if node.op_type == "MatMul" else None
        scopes = "".join(entry.value for entry in node.metadata_props if entry.key == _SCOPES)
        if weight is None or len(weight.dims) != 2 or any(name in scopes for name in but):
            kept.append(node)
            continue
        values = numpy_helper.to_array(weight)
        scale = np.maximum(np.abs(values).max(axis=0) / np.float32(STEPS), np.float32(1e-12))
        zero = np.zeros(len(scale), np.int8)
        inputs, output = [node.input[0], f"{weight.name}_int8", f"{weight.name}_scale", ""], ""
        after = users.get(node.output[0])
        if after is not None and after.op_type == "Add" and uses[node.output[0]] == 1:
            for bias in set(after.input) & constants.keys():
                if list(constants[bias].dims) == [len(scale)]:
                    inputs, output = [*inputs, bias], after.output[0]
                    merged.add(output)
        for name, array in (("scale", scale), ("zero", zero)):
            graph.initializer.append(numpy_helper.from_array(array, f"{weight.name}_{name}"))
        parts = [weight.name, f"{weight.name}_scale", f"{weight.name}_zero"]
        outputs = [output or node.output[0]]
        kept += [
            helper.make_node("QuantizeLinear", parts, [f"{weight.name}_int8"], axis=1),
            helper.make_node("DynamicQuantizeMatMul", inputs, outputs, domain=_DOMAIN),
        ]
        rounded += 1
    del graph.node[:]
    graph.node.extend(kept)
    model.opset_import.append(helper.make_opsetid(_DOMAIN, 1))
    return rounded

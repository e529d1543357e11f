# SPDX-License-Identifier: Apache-2.0
"""Linear layers that multiply 8-bit integers, in ONNX Runtime."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tracker_ros.engines.graph import GraphSpec, TensorSpec
from tracker_ros.engines.int8 import round_linear_layers
from tracker_ros.engines.onnx_session import OnnxRuntimeEngine

ROWS, WIDTH, HIDDEN = 24, 96, 160
SPEC = GraphSpec(
    "layers", {"x": TensorSpec((1, ROWS, WIDTH))}, {"y": TensorSpec((1, ROWS, WIDTH))}
)


def layers() -> onnx.ModelProto:
    """Two linear layers, the first with a bias, and a product of two inputs between."""
    generator = np.random.default_rng(0)
    constants = {
        "w1": generator.normal(0, 0.1, (WIDTH, HIDDEN)) * np.geomspace(0.01, 10, HIDDEN),
        "b1": generator.normal(0, 0.1, HIDDEN),
        "w2": generator.normal(0, 0.1, (HIDDEN, WIDTH)),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["p1"]),
        helper.make_node("Add", ["p1", "b1"], ["h"]),
        helper.make_node("Transpose", ["h"], ["t"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["h", "t"], ["square"]),
        helper.make_node("MatMul", ["square", "h"], ["mixed"]),
        helper.make_node("MatMul", ["mixed", "w2"], ["y"]),
    ]
    for node, scope in ((nodes[0], "net.first"), (nodes[5], "net.second")):
        node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=f"['net', '{scope}']")
    shape = [1, ROWS, WIDTH]
    graph = helper.make_graph(
        nodes,
        "layers",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(v.astype(np.float32), name) for name, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def outputs(model: onnx.ModelProto) -> np.ndarray:
    engine = OnnxRuntimeEngine(SPEC, model.SerializeToString(), "int8", "cpu")
    x = np.random.default_rng(1).normal(0.5, 1, (1, ROWS, WIDTH)).astype(np.float32)
    found: np.ndarray = engine(x=x)["y"]
    return found


@pytest.mark.parametrize(("but", "rounded"), [((), 2), (("first",), 1), (("net",), 0)])
def test_linear_layers_are_rounded_but_those_named(but: tuple[str, ...], rounded: int) -> None:
    model = layers()
    assert round_linear_layers(model, but) == rounded
    kinds = Counter(node.op_type for node in model.graph.node)
    assert kinds["DynamicQuantizeMatMul"] == rounded
    assert kinds["MatMul"] == 4 - rounded
    assert kinds["Add"] == (0 if rounded == 2 else 1), "the bias is part of the product"
    exact, found = outputs(layers()), outputs(model)
    error = np.abs(exact - found).max() / np.abs(exact).max()
    assert error < 0.03
    assert (error > 0) == (rounded > 0)


def test_large_weights_do_not_overflow() -> None:
    """Pairs of products are added in 16 bits where a processor has no VNNI."""
    model = layers()
    for tensor in model.graph.initializer:
        if tensor.name == "w1":
            ones = np.ones((WIDTH, HIDDEN), np.float32)
            tensor.CopyFrom(numpy_helper.from_array(ones, "w1"))
    exact = outputs(model)
    round_linear_layers(model)
    assert np.abs(exact - outputs(model)).max() / np.abs(exact).max() < 0.03

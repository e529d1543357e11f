# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch

from tracker_ros.engines.graph import Graph


def test_right_inputs_are_accepted(doubling: Graph) -> None:
    doubling.spec.check(doubling.example(0))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, "graph 'double': input 'values' is missing; expected values"),
        (
            {"values": torch.zeros(3), "more": torch.zeros(1)},
            "graph 'double': input 'more' is unknown; expected values",
        ),
        (
            {"values": torch.zeros(4)},
            r"graph 'double': input 'values' is float32 \(4,\); expected float32 \(3,\)",
        ),
        (
            {"values": torch.zeros(3, dtype=torch.float64)},
            r"input 'values' is float64 \(3,\); expected float32 \(3,\)",
        ),
    ],
)
def test_wrong_inputs_are_named(
    doubling: Graph, tensors: dict[str, torch.Tensor], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        doubling.spec.check(tensors)

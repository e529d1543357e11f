# SPDX-License-Identifier: Apache-2.0
"""What passes a parity check and what does not, and the figures that it reports."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tracker_ros.engines import torch_engine
from tracker_ros.engines.graph import EngineUnavailable, Graph, GraphSpec, TensorSpec
from tracker_ros.engines.parity_check import CROPS, compare, examine
from tracker_ros.engines.select_backend import Backend
from tracker_ros.engines.torch_engine import TorchEngine

Outputs = dict[str, Tensor]


class Identity(nn.Module):
    def forward(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        return boxes, scores


def example(seed: int) -> Outputs:
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.rand(2, 4, generator=generator) * 0.2 + 0.4
    return {"boxes": boxes, "scores": torch.rand(2, generator=generator)}


NUMBERS = Graph(
    GraphSpec(
        "numbers",
        {"boxes": TensorSpec((2, 4)), "scores": TensorSpec((2,))},
        {"boxes": TensorSpec((2, 4)), "scores": TensorSpec((2,))},
    ),
    Identity(),
    example,
)
BOXES = replace(NUMBERS, boxes=lambda outputs: (outputs["boxes"], outputs["scores"]))


def widened(outputs: Outputs, factor: float, first: int = 0) -> Outputs:
    """Boxes from `first` on made wider: their IoU becomes 1 / factor."""
    boxes = outputs["boxes"].clone()
    boxes[first:, 2] *= factor
    return {**outputs, "boxes": boxes}


def pairs(change: object, crops: int = CROPS) -> list[tuple[Outputs, Outputs]]:
    assert callable(change)
    return [(example(seed), change(example(seed))) for seed in range(crops)]


def test_an_equal_engine_passes_with_perfect_figures() -> None:
    report = examine(lambda **inputs: inputs, BOXES, "fp16")
    assert report.passed
    assert (report.crops, report.median_iou, report.least_iou) == (16, 1.0, 1.0)
    assert report.score_difference == 0.0
    assert set(report.outputs) == {"boxes", "scores"}
    assert report.outputs["boxes"].cosine == pytest.approx(1.0)
    assert report.as_dict()["summary"] == report.summary()


def test_what_an_engine_overwrites_at_its_next_call_is_compared_in_time() -> None:
    memory = example(0)

    def run(**inputs: Tensor) -> Outputs:
        for name, tensor in inputs.items():
            memory[name].copy_(tensor)
        return memory

    assert examine(run, BOXES, "fp32").passed


@pytest.mark.parametrize(
    ("factor", "problem"),
    [
        (1.008, ""),
        (1.02, "median box IoU 0.9804 < 0.99"),
        (1.06, "least box IoU 0.9434 < 0.95"),
        (float("inf"), "output 'boxes' holds values that are no numbers"),
    ],
)
def test_boxes_must_agree(factor: float, problem: str) -> None:
    report = compare(pairs(lambda outputs: widened(outputs, factor)), BOXES, "fp16")
    assert report.passed == (not problem)
    assert problem in "; ".join(report.problems)


def test_one_box_that_is_off_is_enough() -> None:
    given = pairs(lambda outputs: outputs)
    given[7] = (given[7][0], widened(given[7][0], 1.06, first=1))
    report = compare(given, BOXES, "fp16")
    assert report.problems == ["least box IoU 0.9434 < 0.95"]
    assert report.median_iou == 1.0


def test_boxes_without_area_do_not_pass() -> None:
    report = compare(pairs(lambda outputs: widened(outputs, 0.0)), BOXES, "fp16")
    assert (report.median_iou, report.least_iou) == (0.0, 0.0)


@pytest.mark.parametrize(("offset", "passed"), [(0.019, True), (0.021, False), (-0.021, False)])
def test_scores_must_agree(offset: float, passed: bool) -> None:
    def shifted(outputs: Outputs) -> Outputs:
        return {**outputs, "scores": outputs["scores"] + offset}

    report = compare(pairs(shifted), BOXES, "fp32")
    assert report.passed == passed
    assert report.score_difference == pytest.approx(abs(offset), abs=1e-6)
    assert passed or report.problems == ["scores differ by 0.0210 > 0.02"]


def test_boxes_decide_where_there_are_any() -> None:
    def swapped(outputs: Outputs) -> Outputs:
        return {name: tensor * 1.04 for name, tensor in outputs.items()}

    assert compare(pairs(swapped), NUMBERS, "fp32").problems != []
    moved = compare(pairs(lambda outputs: widened(outputs, 1.008)), BOXES, "fp32")
    assert moved.passed
    assert moved.outputs["boxes"].relative_error > 1e-3


@pytest.mark.parametrize(
    ("precision", "factor", "passed"),
    [
        ("fp32", 1.0005, True),
        ("fp32", 1.002, False),
        ("fp16", 1.002, True),
        ("fp16", 1.04, False),
        ("fp16-mixed", 1.002, True),
    ],
)
def test_numbers_must_agree_as_far_as_the_precision_goes(
    precision: str, factor: float, passed: bool
) -> None:
    def scaled(outputs: Outputs) -> Outputs:
        return {**outputs, "boxes": outputs["boxes"] * factor}

    report = compare(pairs(scaled), NUMBERS, precision)
    assert report.passed == passed
    assert report.outputs["boxes"].relative_error == pytest.approx(factor - 1, rel=1e-2)
    assert report.outputs["boxes"].cosine == pytest.approx(1.0)
    assert report.median_iou is None
    assert passed or "output 'boxes': relative error" in report.problems[0]


def test_numbers_must_point_the_same_way() -> None:
    def turned(outputs: Outputs) -> Outputs:
        sign = torch.tensor([1.0, -1.0, 1.0, 1.0])
        return {**outputs, "boxes": outputs["boxes"] * sign}

    report = compare(pairs(turned), NUMBERS, "fp16")
    assert any(problem.startswith("output 'boxes': cosine 0.") for problem in report.problems)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("graph", [NUMBERS, BOXES])
def test_what_is_no_number_never_passes(graph: Graph, value: float) -> None:
    given = pairs(lambda outputs: outputs)
    given[15][1]["scores"] = torch.tensor([0.5, value])
    report = compare(given, graph, "fp16")
    assert report.problems == ["output 'scores' holds values that are no numbers"]
    assert not report.outputs["scores"].finite
    assert report.outputs["boxes"].finite


def test_nothing_equals_nothing_only() -> None:
    def emptied(outputs: Outputs) -> Outputs:
        return {name: torch.zeros_like(tensor) for name, tensor in outputs.items()}

    nothing = [(emptied(example(0)), emptied(example(0)))]
    assert compare(nothing, NUMBERS, "fp32").passed
    assert not compare([(emptied(example(0)), example(0))], NUMBERS, "fp16").passed
    assert not compare(pairs(emptied), NUMBERS, "fp16").passed


@pytest.mark.parametrize(("precision", "refused"), [("fp16", True), ("fp32", False)])
def test_recordings_in_half_precision_are_checked_too(
    monkeypatch: pytest.MonkeyPatch, precision: str, refused: bool
) -> None:
    class Doubling(nn.Module):
        def forward(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
            return 2 * boxes, scores

    device = torch.device("cpu")
    wrong = TorchEngine(replace(BOXES, module=Doubling()), "fp32", device)
    wrong.precision = precision
    monkeypatch.setattr(torch_engine, "CudaGraphEngine", lambda *given: wrong)
    backend = Backend("cuda_graph", device, precision, "model", Path())
    if refused:
        with pytest.raises(EngineUnavailable, match="'numbers' in fp16 does not equal torch"):
            backend.open(BOXES)
    else:
        assert backend.open(BOXES) is wrong


@pytest.mark.parametrize(("graph", "crops"), [(BOXES, CROPS), (NUMBERS, 1)])
def test_recordings_are_compared_to_torch_on_their_own_device(
    monkeypatch: pytest.MonkeyPatch, graph: Graph, crops: int
) -> None:
    computed = []

    class Watched(Identity):
        def forward(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
            computed.append(self)
            return boxes, scores

    given = replace(graph, module=Watched())
    right = TorchEngine(graph, "fp32", torch.device("cpu"))
    right.precision = "fp16"
    monkeypatch.setattr(torch_engine, "CudaGraphEngine", lambda *given: right)
    device = torch.device("cpu")
    assert Backend("cuda_graph", device, "fp16", "model", Path()).open(given) is right
    assert len(computed) == crops
    assert given.module not in computed, "the graph's own module is on the CPU"


def test_a_reference_may_overwrite_what_it_returned() -> None:
    memory = example(0)

    def reference(**inputs: Tensor) -> Outputs:
        for name, tensor in inputs.items():
            memory[name].copy_(tensor)
        return memory

    assert examine(lambda **inputs: inputs, BOXES, "fp32", 3, reference).passed
    zeros = {name: torch.zeros_like(tensor) for name, tensor in memory.items()}
    assert not examine(lambda **inputs: inputs, BOXES, "fp32", 3, lambda **inputs: zeros).passed

# SPDX-License-Identifier: Apache-2.0
"""Checks that an engine computes what torch computes, by what it finds or number by number.

Several versions of TensorRT compute transformers silently wrong (NVIDIA/TensorRT issues 4419,
4558, 4723, 4742), so no engine is used that has not passed.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from tracker_ros.engines.graph import Graph

CROPS = 16
MEDIAN_IOU, MIN_IOU, SCORE_DIFFERENCE = 0.99, 0.95, 0.02
# Smallest cosine and largest relative error of outputs without boxes. Half precision has three
# digits, and a few dozen layers lose one of them.
NUMBERS = {"fp32": (0.99999, 1e-3)}
ROUNDED_NUMBERS = (0.999, 0.03)

Outputs = Mapping[str, Tensor]


@dataclass(frozen=True)
class OutputFigures:
    """The worst figures of one output over all crops: cosine, and largest difference.

    The difference is relative to the largest value of the reference.
    """

    cosine: float
    relative_error: float
    finite: bool


@dataclass(frozen=True)
class ParityReport:
    """Result of a parity check.

    Attributes:
        crops: How many inputs were compared.
        outputs: By name.
        median_iou: Of the boxes; None where the graph finds none.
        least_iou: Smallest of the boxes, likewise.
        score_difference: Largest of the scores, likewise.
        problems: What exceeds the limits; empty if the engine passed.
    """

    crops: int
    outputs: dict[str, OutputFigures]
    median_iou: float | None = None
    least_iou: float | None = None
    score_difference: float | None = None
    problems: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Tell whether the engine may be used."""
        return not self.problems

    def as_dict(self) -> dict[str, Any]:
        """Return the report for JSON."""
        return asdict(self) | {"summary": self.summary()}

    def summary(self) -> str:
        """Return the figures in one line."""
        if self.median_iou is not None:
            figures = (
                f"box IoU median {self.median_iou:.4f}, least {self.least_iou:.4f}, "
                f"scores within {self.score_difference:.4f}"
            )
        else:
            cosine = min(figures.cosine for figures in self.outputs.values())
            error = max(figures.relative_error for figures in self.outputs.values())
            figures = f"cosine at least {cosine:.6f}, relative error at most {error:.1e}"
        return f"{self.crops} crops: {figures}"


def examine(
    run: Callable[..., Outputs],
    graph: Graph,
    precision: str,
    crops: int = CROPS,
    reference: Callable[..., Outputs] | None = None,
) -> ParityReport:
    """Compare an engine to the module of its graph, on examples of its inputs.

    Args:
        run: The engine, or a function that is called like one.
        graph: What it should compute.
        precision: What it computes in.
        crops: How many samples to compare; each example has as many as the graph.
        reference: Called like an engine; None for the graph's module, on the CPU.
    """

    def module(**inputs: Tensor) -> Outputs:
        return dict(zip(graph.spec.outputs, graph.module(*inputs.values()), strict=True))

    pairs = []
    with torch.inference_mode():
        for seed in range(max(1, crops // graph.samples)):
            inputs = graph.example(seed)
            pairs.append((_kept((reference or module)(**inputs)), _kept(run(**inputs))))
    return compare(pairs, graph, precision)


def _kept(outputs: Outputs) -> Outputs:
    """Copy outputs to the CPU; an engine may overwrite them."""
    return {name: tensor.cpu().clone() for name, tensor in outputs.items()}


def pack_example(inputs: Outputs, outputs: Outputs) -> bytes:
    """Return an example of inputs and outputs as a safetensors file."""
    from safetensors.torch import save

    named = [("input", inputs), ("output", outputs)]
    return save(
        {
            f"{kind}.{name}": tensor.clone().contiguous()
            for kind, tensors in named
            for name, tensor in tensors.items()
        }
    )


def compare(
    pairs: Iterable[tuple[Outputs, Outputs]], graph: Graph, precision: str
) -> ParityReport:
    """Compare outputs to their references: one pair for each crop, on the CPU."""
    pairs = list(pairs)
    crops = len(pairs) * graph.samples
    outputs = {
        name: _figures([(reference[name], found[name]) for reference, found in pairs])
        for name in graph.spec.outputs
    }
    problems = [
        f"output {name!r} holds values that are no numbers"
        for name, figures in outputs.items()
        if not figures.finite
    ]
    if problems or graph.boxes is None:
        cosine, error = NUMBERS.get(precision, ROUNDED_NUMBERS)
        for name, figures in outputs.items():
            if figures.finite and figures.cosine < cosine:
                problems.append(f"output {name!r}: cosine {figures.cosine:.6f} < {cosine}")
            if figures.finite and figures.relative_error > error:
                problems.append(
                    f"output {name!r}: relative error {figures.relative_error:.1e} > {error}"
                )
        return ParityReport(crops, outputs, problems=problems)
    overlaps: list[float] = []
    differences: list[float] = []
    for reference, found in pairs:
        (boxes, scores), (found_boxes, found_scores) = graph.boxes(reference), graph.boxes(found)
        overlaps += _overlap(boxes.double(), found_boxes.double()).tolist()
        differences += (scores.double() - found_scores.double()).abs().tolist()
    median, least, difference = statistics.median(overlaps), min(overlaps), max(differences)
    if not median >= MEDIAN_IOU:
        problems.append(f"median box IoU {median:.4f} < {MEDIAN_IOU}")
    if not least >= MIN_IOU:
        problems.append(f"least box IoU {least:.4f} < {MIN_IOU}")
    if not difference <= SCORE_DIFFERENCE:
        problems.append(f"scores differ by {difference:.4f} > {SCORE_DIFFERENCE}")
    return ParityReport(crops, outputs, median, least, difference, problems)


def _figures(pairs: Iterable[tuple[Tensor, Tensor]]) -> OutputFigures:
    cosines, errors, finite = [1.0], [0.0], True
    for reference, found in pairs:
        a, b = reference.double().flatten(), found.double().flatten()
        if not bool(b.isfinite().all()):
            finite = False
            continue
        largest = float(a.abs().max())
        norms = float(a.norm() * b.norm())
        cosines.append(float(a @ b) / norms if norms else float(torch.equal(a, b)))
        errors.append(float((a - b).abs().max()) / (largest or 1.0))
    return OutputFigures(min(cosines), max(errors), finite)


def _overlap(first: Tensor, second: Tensor) -> Tensor:
    """Return the IoU of (N, 4) boxes cxcywh, pair by pair; 0 where there is no union."""
    low = torch.maximum(first[:, :2] - first[:, 2:] / 2, second[:, :2] - second[:, 2:] / 2)
    high = torch.minimum(first[:, :2] + first[:, 2:] / 2, second[:, :2] + second[:, 2:] / 2)
    both = (high - low).clamp(min=0).prod(dim=1)
    union = first[:, 2:].prod(dim=1) + second[:, 2:].prod(dim=1) - both
    return torch.where(union > 0, both / union, torch.zeros_like(both))

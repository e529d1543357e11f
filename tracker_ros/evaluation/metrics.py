# SPDX-License-Identifier: Apache-2.0
"""How well predicted boxes fit annotated ones: success, precision and failures.

Definitions, for one sequence tracked once from its first frame (one-pass evaluation, "OPE" of
Wu, Lim and Yang, "Object Tracking Benchmark", TPAMI 2015):

* **Overlap** of a frame is intersection over union of the two boxes, 0 where the tracker gave
  none.
* **Success rate** at threshold t is the share of the frames with overlap above t. **Success AUC**
  is its mean over the 21 thresholds 0, 0.05, …, 1.
* **Precision at 20 px** is the share of the frames whose box centres are at most 20 px apart.
* A **failure** is a run of frames with overlap 0, however long: the target was lost once.

Neither the first frame, on which the tracker is given the true box (the benchmark's own code
counts it, which flatters every tracker a little), nor frames without the target (no annotation,
or an empty box) count. The mean over several sequences gives each sequence the same weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tracker_ros.boxes import ious, xywh_to_cxcywh

SUCCESS_THRESHOLDS: np.ndarray = np.arange(21) / 20.0
"""Overlap thresholds of the success curve: 0, 0.05, …, 1."""

PRECISION_RADIUS = 20.0
"""Largest distance of centres that counts as precise, in pixels."""


@dataclass(frozen=True)
class SequenceScore:
    """What one tracker reached on one sequence.

    Attributes:
        sequence: Name of the sequence.
        frames: Number of frames that count.
        auc: Success AUC in [0, 1].
        precision: Precision at 20 px in [0, 1].
        failures: How often the overlap fell to 0.
        mean_overlap: Mean overlap in [0, 1].
        success_curve: Success rate at each of `SUCCESS_THRESHOLDS`.
        frames_per_second: Speed of `track`, frames tracked per second; None if not measured.
    """

    sequence: str
    frames: int
    auc: float
    precision: float
    failures: int
    mean_overlap: float
    success_curve: tuple[float, ...]
    frames_per_second: float | None = None


@dataclass(frozen=True)
class TrackerScore:
    """What one tracker reached over several sequences; means give each the same weight.

    Attributes:
        tracker: Name of the tracker.
        auc: Mean success AUC.
        precision: Mean precision at 20 px.
        failures: Sum of the failures.
        success_curve: Mean success rate at each of `SUCCESS_THRESHOLDS`.
        frames_per_second: All frames tracked by all time taken (harmonic over sequences), None
            if not measured.
        sequences: The scores behind it.
    """

    tracker: str
    auc: float
    precision: float
    failures: int
    success_curve: tuple[float, ...]
    frames_per_second: float | None
    sequences: tuple[SequenceScore, ...]


def overlaps(predicted: np.ndarray, annotated: np.ndarray) -> np.ndarray:
    """Intersection over union, row by row.

    Args:
        predicted: (N, 4) boxes x, y, w, h in pixels; a row that is not finite has overlap 0.
        annotated: (N, 4) boxes x, y, w, h in pixels.

    Returns:
        (N,) float64 in [0, 1].

    Raises:
        ValueError: If the shapes differ or are not (N, 4).
    """
    return ious(*_checked(predicted, annotated))


def centre_distances(predicted: np.ndarray, annotated: np.ndarray) -> np.ndarray:
    """Distance of the boxes' centres, row by row.

    Args:
        predicted: (N, 4) boxes x, y, w, h in pixels; a row that is not finite is infinitely far.
        annotated: (N, 4) boxes x, y, w, h in pixels.

    Returns:
        (N,) float64, pixels.

    Raises:
        ValueError: If the shapes differ or are not (N, 4).
    """
    predicted, annotated = _checked(predicted, annotated)
    offset = (xywh_to_cxcywh(predicted) - xywh_to_cxcywh(annotated))[:, :2]
    distance = np.hypot(offset[:, 0], offset[:, 1])
    return np.where(np.isfinite(distance), distance, np.inf)


def visible(annotated: np.ndarray) -> np.ndarray:
    """Which frames have a target: finite boxes with positive width and height, (N,) bool."""
    annotated = np.asarray(annotated, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        return np.isfinite(annotated).all(1) & (annotated[:, 2] > 0) & (annotated[:, 3] > 0)


def success_curve(overlap: np.ndarray) -> np.ndarray:
    """Success rate at each of `SUCCESS_THRESHOLDS`, (21,); zeros where there are no frames."""
    overlap = np.asarray(overlap, dtype=np.float64)
    if overlap.size == 0:
        return np.zeros(len(SUCCESS_THRESHOLDS))
    return (overlap[None, :] > SUCCESS_THRESHOLDS[:, None]).mean(1)


def count_failures(overlap: np.ndarray) -> int:
    """Number of runs of frames with overlap 0."""
    lost = np.concatenate([[False], np.asarray(overlap) <= 0.0])
    return int((lost[1:] & ~lost[:-1]).sum())


def score_sequence(
    name: str,
    predicted: np.ndarray,
    annotated: np.ndarray,
    seconds: float | None = None,
) -> SequenceScore:
    """Score one tracked sequence.

    Args:
        name: Name of the sequence.
        predicted: (N, 4) boxes x, y, w, h in pixels; the first, which was given, does not count.
        annotated: (N, 4) true boxes; rows that are not finite or are empty do not count.
        seconds: Time that the N − 1 calls of `track` took, None if not measured.

    Returns:
        The score.

    Raises:
        ValueError: If the shapes differ, or no frame after the first has a target.
    """
    predicted, annotated = _checked(predicted, annotated)
    counted = visible(annotated)
    counted[:1] = False
    if not counted.any():
        raise ValueError(f"sequence {name!r} has no annotated target after its first frame")
    overlap = overlaps(predicted[counted], annotated[counted])
    distance = centre_distances(predicted[counted], annotated[counted])
    curve = success_curve(overlap)
    return SequenceScore(
        sequence=name,
        frames=int(counted.sum()),
        auc=float(curve.mean()),
        precision=float((distance <= PRECISION_RADIUS).mean()),
        failures=count_failures(overlap),
        mean_overlap=float(overlap.mean()),
        success_curve=tuple(float(rate) for rate in curve),
        frames_per_second=(len(predicted) - 1) / seconds if seconds else None,
    )


def score_tracker(name: str, scores: Sequence[SequenceScore]) -> TrackerScore:
    """Average the scores of one tracker over its sequences.

    Raises:
        ValueError: If there are none.
    """
    if not scores:
        raise ValueError(f"no sequences were tracked with {name!r}; give at least one")
    rates = [score.frames_per_second for score in scores]
    speed = None
    if all(rate is not None and rate > 0 for rate in rates):
        times = [score.frames / rate for score, rate in zip(scores, rates, strict=True) if rate]
        speed = sum(score.frames for score in scores) / sum(times)
    return TrackerScore(
        tracker=name,
        auc=float(np.mean([score.auc for score in scores])),
        precision=float(np.mean([score.precision for score in scores])),
        failures=sum(score.failures for score in scores),
        success_curve=tuple(
            float(rate) for rate in np.mean([score.success_curve for score in scores], axis=0)
        ),
        frames_per_second=speed,
        sequences=tuple(scores),
    )


def _checked(predicted: np.ndarray, annotated: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both arrays as float64 (N, 4), or ValueError."""
    predicted = np.asarray(predicted, dtype=np.float64)
    annotated = np.asarray(annotated, dtype=np.float64)
    if predicted.ndim != 2 or predicted.shape[1] != 4 or predicted.shape != annotated.shape:
        raise ValueError(
            f"predicted boxes have shape {predicted.shape} and annotated ones "
            f"{annotated.shape}; both must be (N, 4) with one row per frame"
        )
    return predicted, annotated

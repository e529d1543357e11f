# SPDX-License-Identifier: Apache-2.0
"""Score runs as the benchmarks do: what is kept of each sequence, and their scores over all.

`protocols` says how each benchmark counts. Records of sequences are plain values, so that those
of several processes can be put together.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tracker_ros.evaluation.ope import TrackedSequence
from tracker_ros.evaluation.protocols import (
    Got10kScore,
    LasotScore,
    LongTermRun,
    LongTermScore,
    OtbScore,
    VotScore,
    got10k_overlaps,
    got10k_score,
    lasot_score,
    long_term_score,
    otb_score,
    vot_overlaps,
    vot_score,
    vot_total,
)
from tracker_ros.evaluation.sequences import AnnotatedSequence
from tracker_ros.geometry import visible


@dataclass(frozen=True)
class BenchmarkRecord:
    """What the benchmarks' scores need of one tracked sequence."""

    sequence: str
    got10k_overlaps: np.ndarray  # overlaps of the frames that GOT-10k counts, (M,)
    otb: OtbScore
    lasot: LasotScore
    vot: VotScore  # VOT's accuracy and robustness
    long_term: LongTermRun  # VOT's overlaps with the confidences


@dataclass(frozen=True)
class BenchmarkScores:
    """One tracker's scores as the benchmarks count, over all sequences."""

    tracker: str
    got10k: Got10kScore
    otb: OtbScore
    lasot: LasotScore
    vot: VotScore
    vot_long_term: LongTermScore

    def as_data(self) -> dict[str, Any]:
        """Return the scores as plain data for JSON, by benchmark."""
        data = asdict(self)
        del data["tracker"]
        return data


def record_benchmarks(sequence: AnnotatedSequence, answer: TrackedSequence) -> BenchmarkRecord:
    """Return what the benchmarks' scores need of one tracked sequence.

    VOT gives the first frame, in which the tracker is told the target, overlap 0 and confidence 0.
    """
    found, true = answer.boxes, sequence.boxes
    height, width = sequence.image(0).shape[:2]
    overlaps = vot_overlaps(found, true, height, width)
    confidences = answer.scores.copy()
    overlaps[0] = confidences[0] = 0.0
    return BenchmarkRecord(
        sequence.name,
        got10k_overlaps(found, true, height, width),
        otb_score(found, true),
        lasot_score(found, true),
        vot_score(found, true, height, width),
        LongTermRun(overlaps, confidences, int(visible(true).sum())),
    )


def score_benchmarks(tracker: str, records: Sequence[BenchmarkRecord]) -> BenchmarkScores:
    """Return a tracker's scores over its sequences, at least one."""
    return BenchmarkScores(
        tracker,
        got10k_score([record.got10k_overlaps for record in records]),
        OtbScore(
            _mean(record.otb.success for record in records),
            _mean(record.otb.precision for record in records),
        ),
        LasotScore(
            _mean(record.lasot.success for record in records),
            _mean(record.lasot.precision for record in records),
            _mean(record.lasot.normalised_precision for record in records),
        ),
        vot_total([record.vot for record in records]),
        long_term_score([record.long_term for record in records]),
    )


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))

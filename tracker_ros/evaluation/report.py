# SPDX-License-Identifier: Apache-2.0
"""The results of an evaluation: as data, and as Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, astuple, dataclass, field
from typing import Any

from tracker_ros.evaluation.benchmarks import BenchmarkScores
from tracker_ros.evaluation.machine import Machine
from tracker_ros.evaluation.metrics import (
    PRECISION_RADIUS,
    SUCCESS_THRESHOLDS,
    MaskRow,
    SequenceScore,
    TrackerScore,
)
from tracker_ros.evaluation.sequences import AnnotatedSequence


@dataclass(frozen=True)
class SequenceNote:
    """One sequence in a report: name, frames, data set and licence."""

    name: str
    frames: int
    dataset: str = ""
    licence: str = ""

    @staticmethod
    def of(sequence: AnnotatedSequence) -> SequenceNote:
        """Return what a report says of a sequence."""
        dataset, licence = (str(sequence.about.get(key, "")) for key in ("dataset", "licence"))
        return SequenceNote(sequence.name, len(sequence), dataset, licence)


@dataclass(frozen=True)
class Report:
    """The results of one evaluation."""

    scores: tuple[TrackerScore, ...]  # one per tracker, in the order asked for
    sequences: tuple[SequenceNote, ...]  # the sequences they ran on
    machine: Machine  # where the package's own models ran
    device: str  # device they ran on
    notes: dict[str, str]  # remarks on the trackers, e.g. which weights; by tracker
    # the scores as benchmarks count them; one entry per tracker
    benchmarks: tuple[BenchmarkScores, ...] = ()
    masks: tuple[MaskRow, ...] = ()  # J and F of masks, where sequences have any
    left_out: tuple[str, ...] = ()  # sequences that could not be read or tracked, and why
    # a line for each frame that could not be read, by tracker and sequence
    bad_frames: dict[str, dict[str, tuple[str, ...]]] = field(default_factory=dict)
    # what broke the evaluation off, if anything did; the last tracker then lacks sequences, and
    # further ones may be missing
    ended_by: str = ""

    def as_data(self) -> dict[str, Any]:
        """Return the report as plain data for JSON."""
        benchmarks = {scores.tracker: scores.as_data() for scores in self.benchmarks}
        return {
            "complete": not self.ended_by,
            **({"ended_by": self.ended_by} if self.ended_by else {}),
            "machine": asdict(self.machine),
            "device": self.device,
            "definitions": {
                "success_thresholds": [float(value) for value in SUCCESS_THRESHOLDS],
                "precision_radius_px": PRECISION_RADIUS,
                "first_frame_counts": False,
            },
            "sequences": [asdict(note) for note in self.sequences],
            "trackers": [
                {
                    **asdict(score),
                    "note": self.notes.get(score.tracker, ""),
                    "benchmarks": benchmarks.get(score.tracker, {}),
                }
                for score in self.scores
            ],
            "left_out": list(self.left_out),
            "bad_frames": self.bad_frames,
            "masks": [
                {
                    **asdict(row),
                    "region": row.region,
                    "contour": row.contour,
                    "davis": row.davis and asdict(row.davis),
                }
                for row in self.masks
            ],
        }


def table(alignment: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; the alignment has an l or an r for each column."""
    rule = ["---" if side == "l" else "---:" for side in alignment]
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, rule, *rows))


def _figure(value: float, best: float) -> str:
    """Return a number with three decimals, in bold if it is the best."""
    return f"**{value:.3f}**" if value == best else f"{value:.3f}"


def summary_table(scores: Sequence[TrackerScore]) -> str:
    """Return the means of all trackers as a Markdown table."""
    best = max(score.auc for score in scores)
    rows = []
    for score in scores:
        rate = score.frames_per_second
        speed = "–" if rate is None else f"{rate:.0f}"
        auc, precision = _figure(score.auc, best), f"{score.precision:.3f}"
        rows.append((score.tracker, auc, precision, str(score.failures), speed))
    header = ("Tracker", "Success AUC", "Precision at 20 px", "Failures", "Frames/s")
    return table("lrrrr", header, rows)


def _cell(entry: SequenceScore, best: float) -> str:
    """Return the success AUC on a sequence, and how often the target was lost."""
    lost = f" ({entry.failures}×lost)" if entry.failures else ""
    return _figure(entry.auc, best) + lost


def sequence_table(scores: Sequence[TrackerScore]) -> str:
    """Return the success AUC of every tracker on every sequence as a Markdown table."""
    rows = []
    by_name = [{entry.sequence: entry for entry in score.sequences} for score in scores]
    for name in dict.fromkeys(name for entries in by_name for name in entries):
        row = [entries.get(name) for entries in by_name]
        known = [entry for entry in row if entry is not None]
        best = max(entry.auc for entry in known)
        cells = ("failed" if entry is None else _cell(entry, best) for entry in row)
        rows.append((name, str(known[0].frames), *cells))
    header = ("Sequence", "Frames", *(score.tracker for score in scores))
    return table("lr" + "r" * len(scores), header, rows)


def mask_table(masks: Sequence[MaskRow]) -> str:
    """Return J and F as a Markdown table, means first."""
    best_region = max(row.region for row in masks)
    best_contour = max(row.contour for row in masks)
    rows = []
    for row in masks:
        means = (_figure(row.region, best_region), _figure(row.contour, best_contour))
        cells = (f"{score.region:.3f} / {score.contour:.3f}" for score in row.scores)
        rows.append((row.masks, *means, *cells))
    names = [f"{score.sequence} J / F" for score in masks[0].scores]
    return table("lrr" + "r" * len(names), ("Masks", "J", "F", *names), rows)


_BENCHMARK_COLUMNS = (
    "GOT-10k AO",
    "SR 0.5",
    "SR 0.75",
    "OTB S",
    "P",
    "LaSOT S",
    "P",
    "P norm",
    "VOT A",
    "R",
    "Long-term Pr",
    "Re",
    "F",
)


def benchmark_table(benchmarks: Sequence[BenchmarkScores]) -> str:
    """Return the scores as benchmarks count them as a Markdown table."""
    rows = [
        (
            scores.tracker,
            *(f"{value:.3f}" for value in astuple(scores.got10k)),
            *(f"{value:.3f}" for value in astuple(scores.otb)),
            *(f"{value:.3f}" for value in astuple(scores.lasot)),
            *(f"{value:.3f}" for value in (scores.vot.accuracy, scores.vot.robustness)),
            *(f"{value:.3f}" for value in astuple(scores.vot_long_term)),
        )
        for scores in benchmarks
    ]
    return table("l" + "r" * len(_BENCHMARK_COLUMNS), ("Tracker", *_BENCHMARK_COLUMNS), rows)


def davis_table(masks: Sequence[MaskRow]) -> str:
    """Return J and F as DAVIS counts them as a Markdown table, means over the objects first."""
    rows, names = [], []
    for row in masks:
        if (mean := row.davis) is None:
            continue
        objects = [(score.sequence, score.davis) for score in row.scores if score.davis]
        names = [f"{name} J / F" for name, _ in objects]
        cells = (f"{one.region:.3f} / {one.contour:.3f}" for _, one in objects)
        both = (mean.region + mean.contour) / 2
        rows.append((row.masks, *(f"{value:.3f}" for value in (both, *astuple(mean))), *cells))
    means = ("J&F", "J", "J recall", "J decay", "F", "F recall", "F decay")
    return table("l" + "r" * (7 + len(names)), ("DAVIS", *means, *names), rows) if rows else ""

# SPDX-License-Identifier: Apache-2.0
"""Results of an evaluation as data, as a Markdown page and as a success plot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tracker_ros import DEFAULT_MODEL
from tracker_ros.evaluation.baselines import BASELINES
from tracker_ros.evaluation.machine import Machine
from tracker_ros.evaluation.metrics import (
    CONTOUR_TOLERANCE,
    PRECISION_RADIUS,
    SUCCESS_THRESHOLDS,
    MaskRow,
    TrackerScore,
    mask_table,
)
from tracker_ros.registry import list_models, model_card


@dataclass(frozen=True)
class SequenceNote:
    """What a report says of one sequence: name, frames, where it is from and on what terms."""

    name: str
    frames: int
    dataset: str = ""
    licence: str = ""


@dataclass(frozen=True)
class Report:
    """All of one evaluation.

    Attributes:
        scores: One entry per tracker, in the order asked for.
        sequences: The sequences they ran on.
        machine: Where the package's own models ran.
        device: Device they ran on.
        notes: What else belongs to a tracker's numbers, e.g. which weights; by tracker.
        masks: J and F of masks, where sequences have any.
    """

    scores: tuple[TrackerScore, ...]
    sequences: tuple[SequenceNote, ...]
    machine: Machine
    device: str
    notes: dict[str, str]
    masks: tuple[MaskRow, ...] = ()

    def as_data(self) -> dict[str, Any]:
        """The report as plain data for JSON."""
        return {
            "machine": asdict(self.machine),
            "device": self.device,
            "definitions": {
                "success_thresholds": [float(value) for value in SUCCESS_THRESHOLDS],
                "precision_radius_px": PRECISION_RADIUS,
                "first_frame_counts": False,
            },
            "sequences": [asdict(note) for note in self.sequences],
            "trackers": [
                {**asdict(score), "note": self.notes.get(score.tracker, "")}
                for score in self.scores
            ],
            "masks": [
                {**asdict(row), "region": row.region, "contour": row.contour} for row in self.masks
            ],
        }


def summary_table(scores: Sequence[TrackerScore]) -> str:
    """The means as a Markdown table; the best success AUC is set in bold."""
    lines = [
        "| Tracker | Success AUC | Precision at 20 px | Failures | Frames/s |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    best = max(score.auc for score in scores)
    for score in scores:
        auc = f"**{score.auc:.3f}**" if score.auc == best else f"{score.auc:.3f}"
        speed = "–" if score.frames_per_second is None else f"{score.frames_per_second:.0f}"
        lines.append(
            f"| {score.tracker} | {auc} | {score.precision:.3f} | {score.failures} | {speed} |"
        )
    return "\n".join(lines)


def sequence_table(scores: Sequence[TrackerScore]) -> str:
    """Success AUC of every tracker on every sequence as a Markdown table."""
    names = [score.tracker for score in scores]
    lines = [
        "| Sequence | Frames | " + " | ".join(names) + " |",
        "| --- | ---: |" + " ---: |" * len(names),
    ]
    for index, first in enumerate(scores[0].sequences):
        row = [score.sequences[index] for score in scores]
        best = max(entry.auc for entry in row)
        cells = [
            (f"**{entry.auc:.3f}**" if entry.auc == best else f"{entry.auc:.3f}")
            + (f" ({entry.failures}×lost)" if entry.failures else "")
            for entry in row
        ]
        lines.append(f"| {first.sequence} | {first.frames} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def comparison(scores: Sequence[TrackerScore], baseline: str = "csrt") -> str:
    """One plain sentence per tracker on how it stands to a baseline; empty without it."""
    reference = next((score for score in scores if score.tracker == baseline), None)
    if reference is None:
        return ""
    sentences = []
    for score in scores:
        if score.tracker in BASELINES:
            continue
        gap = score.auc - reference.auc
        wins = sum(
            ours.auc > theirs.auc
            for ours, theirs in zip(score.sequences, reference.sequences, strict=True)
        )
        relation = "above" if gap > 0 else "below"
        worst = min(score.sequences, key=lambda entry: entry.auc)
        sentences.append(
            f"`{score.tracker}` is {abs(gap):.3f} AUC {relation} {baseline.upper()} in the mean "
            f"and better on {wins} of {len(score.sequences)} sequences; its weakest is "
            f"{worst.sequence} ({worst.auc:.3f})."
        )
    return " ".join(sentences)


def default_model_reason(scores: Sequence[TrackerScore]) -> str:
    """Why the default model is the default; empty unless two embedded models were measured."""
    embedded = {
        score.tracker: score
        for score in scores
        if score.tracker in list_models() and model_card(score.tracker).weights
    }
    if len(embedded) < 2 or DEFAULT_MODEL not in embedded:
        return ""
    default = embedded.pop(DEFAULT_MODEL)
    rivals = ", ".join(
        f"`{score.tracker}` {score.auc:.3f}{_speed(score)}"
        for score in sorted(embedded.values(), key=lambda score: -score.auc)
    )
    leads = all(default.auc >= score.auc for score in embedded.values())
    place = (
        "it has the highest mean success AUC of the models whose weights are embedded"
        if leads
        else "but it does not have the highest mean success AUC of the embedded models"
    )
    return (
        f"**The default model** is `{DEFAULT_MODEL}`: {place}, {default.auc:.3f}"
        f"{_speed(default)}, against {rivals}."
    )


def _speed(score: TrackerScore) -> str:
    rate = score.frames_per_second
    return f" at {rate:.0f} frames/s" if rate else ""


def markdown_page(report: Report, command: str, plot: str | None) -> str:
    """The page `docs/accuracy.md`.

    Args:
        report: The evaluation.
        command: The command that made it, without paths of the machine.
        plot: Path of the success plot relative to the page, or None.

    Returns:
        Markdown text.
    """
    frames = sum(note.frames for note in report.sequences)
    parts = [
        "# Accuracy",
        f"Made by `{command}`; do not edit by hand.\n\n"
        f"Measured: {report.machine.sentence()}. Device of the package's own models: "
        f"`{report.device}`.",
        f"Each tracker gets the true box of the first frame and no help afterwards, on "
        f"{len(report.sequences)} sequences of {frames} frames in all. They are short beginnings "
        "of public benchmark sequences: enough to see whether a tracker works and to compare two "
        "on the same frames, too few and too short to stand beside numbers from the full "
        "benchmarks.",
        summary_table(report.scores),
    ]
    sentences = comparison(report.scores)
    if sentences:
        parts.append(sentences)
    reason = default_model_reason(report.scores)
    if reason:
        parts.append(reason)
    if report.notes:
        parts.append("\n".join(f"- `{name}`: {note}" for name, note in report.notes.items()))
    if plot:
        parts.append(f"![Success curves]({plot})")
    parts += [
        "## By sequence\n\nSuccess AUC, and how often the target was lost.",
        sequence_table(report.scores),
        *_mask_section(report.masks),
        "## Definitions",
        "- **Overlap**: intersection over union of the tracker's box and the true one.\n"
        "- **Success AUC**: mean, over the thresholds 0, 0.05, …, 1, of the share of frames whose "
        "overlap is above the threshold.\n"
        f"- **Precision at {PRECISION_RADIUS:g} px**: share of frames with the two centres at "
        f"most {PRECISION_RADIUS:g} px apart.\n"
        "- **Failures**: how often the overlap fell to 0, counted over all sequences. The tracker "
        "is not started again.\n"
        "- The first frame and frames without a visible target do not count. A tracker that "
        "reports its target lost keeps its last box. The mean gives every sequence the same "
        "weight.\n"
        "- **Frames/s**: calls of `track` alone, reading of images not counted; an indication: "
        "the machine may have had other work. `docs/performance.md` has speeds of a quiet one.\n"
        "- CSRT, KCF and MIL are OpenCV's, with its default parameters. MIL draws random samples "
        "from a generator that cannot be seeded: its numbers change a little from run to run.",
        "## Sequences",
        _sequence_notes(report.sequences),
        "Frames of public benchmarks are used for measuring only: none is in this repository, and "
        "the embedded weights have seen none.",
        "## Measure your own",
        "```bash\n"
        "tracker-ros evaluate FOLDER… --models ostrack_tiny csrt kcf mil --out out/evaluation\n"
        "tracker-ros evaluate synthetic:1 synthetic:2 --models ostrack_tiny csrt   # nothing to "
        "download\n"
        "```",
        "A folder holds one sequence or many: frames in `NAME/img/` with `NAME/groundtruth.txt` "
        "(x, y, w, h per line, 0-based pixels) and, for J and F, pictures in `NAME/masks/`, above "
        "0 on the target. The layouts of OTB (`groundtruth_rect.txt`), VOT, GOT-10k, LaSOT and "
        "TrackingNet are read as they are; pass `--one-based` where a data set counts pixels "
        "from 1.",
    ]
    return "\n\n".join(parts) + "\n"


def _mask_section(rows: Sequence[MaskRow]) -> list[str]:
    """J and F, where any sequence has masks."""
    if not rows:
        return []
    return [
        "## Masks",
        "How masks fit the true ones, on the sequences that have any. A tracker that follows "
        "boxes counts with its box, filled; *true box, filled* fills the tight box of every true "
        "mask, about the best that boxes can reach. Every tracker starts on the first box alone; "
        "*from the first mask*, the usual way to compare video object segmentation, a tracker is "
        "given that instead.",
        mask_table(rows),
        "- **J** (region similarity): intersection over union of mask and true mask.\n"
        "- **F** (contour accuracy): harmonic mean of the shares of both outlines that lie within "
        f"{CONTOUR_TOLERANCE:.1%} of the image's diagonal of each other.\n"
        "- Both are means over all frames but the first, and over the sequences.",
    ]


def save_success_plot(scores: Sequence[TrackerScore], path: Path) -> None:
    """Draw the success curves.

    Args:
        scores: The trackers.
        path: Image file to write.

    Raises:
        ImportError: If matplotlib is missing.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for score in sorted(scores, key=lambda entry: -entry.auc):
        own = score.tracker not in BASELINES
        axes.plot(
            SUCCESS_THRESHOLDS,
            score.success_curve,
            label=f"{score.tracker}  {score.auc:.3f}",
            linewidth=2.4 if own else 1.4,
            linestyle="-" if own else "--",
        )
    axes.set(
        xlabel="overlap threshold",
        ylabel="share of frames above it",
        xlim=(0, 1),
        ylim=(0, 1),
        title="Success (mean over sequences; AUC in the legend)",
    )
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _sequence_notes(notes: Sequence[SequenceNote]) -> str:
    """The sequences as a Markdown table."""
    lines = ["| Sequence | From | Frames | Terms |", "| --- | --- | ---: | --- |"]
    lines += [
        f"| {note.name} | {note.dataset or '–'} | {note.frames} | {note.licence or '–'} |"
        for note in notes
    ]
    return "\n".join(lines)

# SPDX-License-Identifier: Apache-2.0
"""Write an evaluation as a Markdown page with a success plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tracker_ros import DEFAULT_MODEL
from tracker_ros.evaluation.baselines import BASELINES
from tracker_ros.evaluation.metrics import (
    CONTOUR_TOLERANCE,
    PRECISION_RADIUS,
    SUCCESS_THRESHOLDS,
    TrackerScore,
)
from tracker_ros.evaluation.report import (
    Report,
    benchmark_table,
    davis_table,
    mask_table,
    sequence_table,
    summary_table,
    table,
)
from tracker_ros.output_files import replacement
from tracker_ros.registry import list_models, model_card

_TEMPLATE = Path(__file__).parent / "accuracy_page.md"
"""The page, then what it holds where there are scores of benchmarks, and of masks."""


def comparison(scores: Sequence[TrackerScore]) -> str:
    """Return one sentence per model that compares it to CSRT; empty without CSRT."""
    reference = next((score for score in scores if score.tracker == "csrt"), None)
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
            f"`{score.tracker}` is {abs(gap):.3f} AUC {relation} CSRT in the mean "
            f"and better on {wins} of {len(score.sequences)} sequences; its weakest is "
            f"{worst.sequence} ({worst.auc:.3f})."
        )
    return " ".join(sentences)


def default_model_reason(scores: Sequence[TrackerScore]) -> str:
    """Compare the default model to the other embedded ones; empty unless two were measured."""
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
    """Return the text of the page `docs/accuracy.md`.

    `command` made the evaluation; `plot` is the path of the success plot relative to the page, or
    None.
    """
    remarks = (
        summary_table(report.scores),
        comparison(report.scores),
        default_model_reason(report.scores),
        "\n".join(f"- `{name}`: {note}" for name, note in report.notes.items()),
        f"![Success curves]({plot})" if plot else "",
    )
    page, of_benchmarks, of_masks = _TEMPLATE.read_text(encoding="utf-8").split("<!-- part -->\n")
    benchmarks = masks = ""
    if report.benchmarks:
        benchmarks = of_benchmarks.format(table=benchmark_table(report.benchmarks))
    if report.masks:
        masks = of_masks.format(
            table=mask_table(report.masks),
            davis=davis_table(report.masks),
            tolerance=CONTOUR_TOLERANCE,
        )
    sequences = (
        (note.name, note.dataset or "–", str(note.frames), note.licence or "–")
        for note in report.sequences
    )
    return page.format(
        command=command,
        machine=report.machine.sentence(),
        device=report.device,
        count=len(report.sequences),
        frames=sum(note.frames for note in report.sequences),
        remarks="\n\n".join(filter(None, remarks)),
        by_sequence=sequence_table(report.scores),
        benchmarks=benchmarks,
        masks=masks,
        radius=PRECISION_RADIUS,
        sequences=table("llrl", ("Sequence", "From", "Frames", "Terms"), sequences),
    )


def save_success_plot(scores: Sequence[TrackerScore], path: Path) -> None:
    """Draw the success curves into an image file; raises ImportError without Matplotlib."""
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
    with replacement(path) as place:
        figure.savefig(place, dpi=110)

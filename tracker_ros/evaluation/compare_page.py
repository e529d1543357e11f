# SPDX-License-Identifier: Apache-2.0
"""One HTML page, complete in itself, that compares runs of trackers on the same sequences."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np

from tracker_ros.evaluation import charts
from tracker_ros.evaluation.film_strips import film_strip, find_stretches
from tracker_ros.evaluation.metrics import SequenceScore
from tracker_ros.evaluation.records import RunQuality, SequenceRecord

_TEMPLATE = Path(__file__).parent / "compare_page.html"


@dataclass(frozen=True)
class ComparedRun:
    """A tracker's run over sequences."""

    name: str  # its name on the page
    records: dict[str, SequenceRecord]  # what it did, by sequence


def compare_page(runs: Sequence[ComparedRun], about: str, strips: int = 8) -> str:
    """Return the page, on which further runs are compared with the first one.

    Raises ImportError without Matplotlib, ValueError if no sequence of a run can be scored.
    """
    scores = [_scores(run) for run in runs]
    listed = [(run.name, list(run.records.values())) for run in runs]
    drawn = (
        ("Success", charts.success_chart(listed)),
        ("Precision", charts.precision_chart(listed)),
        ("How far scores can be trusted", charts.calibration_chart(listed)),
        ("Cost per frame", charts.cost_chart(listed)),
    )
    parts = {
        "about": escape(about),
        "runs": _legend(runs),
        "summary": _summary(runs, scores),
        "charts": "".join(f"<figure><h3>{t}</h3>{svg}</figure>" for t, svg in drawn),
        "sequences": _sequences(runs, scores),
        "attributes": _attributes(runs, scores),
        "strips": _strips(runs, strips),
    }
    page = _TEMPLATE.read_text(encoding="utf-8")
    for name, text in parts.items():
        page = page.replace(f"<!-- {name} -->", text)
    return page


def _scores(run: ComparedRun) -> dict[str, SequenceScore]:
    found = {}
    for name, record in run.records.items():
        try:
            found[name] = record.score()
        except ValueError:  # no frame after the first has a target
            continue
    if not found:
        raise ValueError(f"no sequence of {run.name} can be scored: none has a truth")
    return found


def _legend(runs: Sequence[ComparedRun]) -> str:
    return "".join(
        f'<span class="run"><i style="background:{charts.COLOURS[i % len(charts.COLOURS)]}"></i>'
        f"{escape(run.name)}</span>"
        for i, run in enumerate(runs)
    )


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], name: str) -> str:
    """Return a table that the page's script can sort by any column."""
    head = "".join(f'<th><button type="button">{escape(cell)}</button></th>' for cell in header)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return (
        f'<table class="sortable" id="{name}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table>"
    )


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f} s"


def _summary(runs: Sequence[ComparedRun], scores: Sequence[dict[str, SequenceScore]]) -> str:
    header = (
        "Run", "Sequences", "Success AUC", "Precision", "Failures", "Time to loss",
        "Time to find again", "Never found", "False TRACKING", "Frames/s",
    )  # fmt: skip
    rows = []
    for run, found in zip(runs, scores, strict=True):
        qualities = [RunQuality.of(record) for record in run.records.values()]
        losses = [q.time_to_loss for q in qualities if q.time_to_loss is not None]
        again = [seconds for q in qualities for seconds in q.times_to_find_again]
        false = [q.false_tracking for q in qualities if q.false_tracking is not None]
        spent = sum(float(r.seconds[1:].sum()) for r in run.records.values())
        frames = sum(len(r.seconds) - 1 for r in run.records.values())
        rows.append(
            (
                escape(run.name),
                str(len(found)),
                f"{np.mean([s.auc for s in found.values()]):.3f}",
                f"{np.mean([s.precision for s in found.values()]):.3f}",
                str(sum(s.failures for s in found.values())),
                _seconds(float(np.mean(losses)) if losses else None),
                _seconds(float(np.mean(again)) if again else None),
                str(sum(q.never_found for q in qualities)),
                f"{100 * np.mean(false):.1f} %" if false else "–",
                f"{frames / spent:.1f}" if spent else "–",
            )
        )
    return _table(header, rows, "summary")


def _difference(ours: float | None, base: float | None) -> str:
    if ours is None or base is None:
        return "–"
    change = ours - base
    kind = "better" if change > 0.005 else "worse" if change < -0.005 else "same"
    return f'<span class="{kind}">{change:+.3f}</span>'


def _sequences(runs: Sequence[ComparedRun], scores: Sequence[dict[str, SequenceScore]]) -> str:
    """Return the table of the success AUC by sequence, the largest loss first."""
    names = list(dict.fromkeys(name for found in scores for name in found))
    rows = []
    for name in names:
        aucs = [found[name].auc if name in found else None for found in scores]
        frames = next(str(found[name].frames) for found in scores if name in found)
        cells = ["–" if auc is None else f"{auc:.3f}" for auc in aucs]
        changes = [_difference(auc, aucs[0]) for auc in aucs[1:]]
        failures = [str(found[name].failures) if name in found else "–" for found in scores]
        base = aucs[0] or 0.0
        order = min([(auc or 0.0) - base for auc in aucs[1:]], default=base)
        rows.append((order, (escape(name), frames, *cells, *changes, *failures)))
    rows.sort(key=lambda row: row[0])
    header = ["Sequence", "Frames", *(f"AUC {run.name}" for run in runs)]
    header += [f"{run.name} − {runs[0].name}" for run in runs[1:]]
    header += [f"Failures {run.name}" for run in runs]
    return _table(header, [cells for _, cells in rows], "sequences")


def _attributes(runs: Sequence[ComparedRun], scores: Sequence[dict[str, SequenceScore]]) -> str:
    """Return the mean success AUC by attribute; empty where a data set has none."""
    by_name: dict[str, set[str]] = {}
    for run in runs:
        for name, record in run.records.items():
            for attribute in record.attributes:
                by_name.setdefault(attribute, set()).add(name)
    if not by_name:
        return ""
    rows = []
    for attribute, names in sorted(by_name.items()):
        known = [[f[n].auc for n in names if n in f] for f in scores]
        means = [float(np.mean(aucs)) if aucs else None for aucs in known]
        cells = ["–" if mean is None else f"{mean:.3f}" for mean in means]
        changes = [_difference(mean, means[0]) for mean in means[1:]]
        rows.append((escape(attribute), str(len(names)), *cells, *changes))
    header = ["Attribute", "Sequences", *(f"AUC {run.name}" for run in runs)]
    header += [f"{run.name} − {runs[0].name}" for run in runs[1:]]
    return f"<h2>By attribute</h2>{_table(header, rows, 'attributes')}"


def _strips(runs: Sequence[ComparedRun], count: int) -> str:
    parts = []
    for stretch in find_stretches([run.records for run in runs], count):
        records = [run.records.get(stretch.sequence) for run in runs]
        pictures = list(film_strip(stretch, records))
        if not pictures:
            continue
        reels = []
        for picture in pictures:
            notes = "".join(
                f'<li style="color:{charts.COLOURS[i % len(charts.COLOURS)]}">{escape(note)}</li>'
                for i, note in enumerate(picture.notes)
            )
            title = f"{escape(stretch.sequence)}, frame {picture.frame}"
            reels.append(
                f'<figure><img src="{picture.data}" alt="{title}">'
                f"<figcaption>frame {picture.frame}<ul>{notes}</ul></figcaption></figure>"
            )
        beside = "than the best other run" if len(runs) > 1 else "than the truth"
        parts.append(
            f"<h3>{escape(stretch.sequence)}, frames {stretch.first} to {stretch.last}: "
            f"{escape(runs[stretch.worse].name)} overlaps by {stretch.loss:.2f} less {beside}"
            f'</h3><div class="strip">{"".join(reels)}</div>'
        )
    return "".join(parts) or "<p>No stretch to show: no run is bad, or its images are gone.</p>"

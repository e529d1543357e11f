# SPDX-License-Identifier: Apache-2.0
"""Count boxes as the public toolkits of the benchmarks do, to compare with published numbers.

`metrics` has the package's own definitions, in which neither the first frame nor frames without
the target count. The benchmarks differ from them and from each other:

| Protocol | First frame | Frames without the target | Mean over |
| --- | --- | --- | --- |
| GOT-10k (toolkit ``got10k``) | left out | left out | all frames of all sequences |
| OTB (toolkit ``got10k``) | counts | count as missed | sequences |
| LaSOT (pytracking, LaSOT's own toolkit) | counts | count as missed | sequences |
| VOT, accuracy and robustness of a run (``vot-toolkit``) | overlap 0 | as below | frames |
| VOT long-term (``vot-toolkit``) | overlap 0, confidence 0 | a box is wrong | sequences |

DAVIS counts masks; see `metrics.davis_score`.

Tests compare each with numbers that the toolkits gave (``tools/toolkit_references.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tracker_ros.evaluation.metrics import SUCCESS_THRESHOLDS, center_distances
from tracker_ros.geometry import ious, visible

_PRECISION_PX = 20.0
_NORMALISED_PRECISION = 0.2
_VOT_GRACE = 10
_VOT_LOST_OVERLAP = 0.1
_LONG_TERM_THRESHOLDS = 100


@dataclass(frozen=True)
class Got10kScore:
    """Average overlap, and the shares of frames with overlap above 0.5 and above 0.75."""

    average_overlap: float
    success_050: float
    success_075: float


@dataclass(frozen=True)
class OtbScore:
    """Success AUC, and precision at 20 px."""

    success: float
    precision: float


@dataclass(frozen=True)
class LasotScore:
    """Success AUC, precision at 20 px, and precision at a fifth of the target's size."""

    success: float
    precision: float
    normalised_precision: float


@dataclass(frozen=True)
class VotScore:
    """Accuracy and robustness of one run or several.

    Robustness is the share of all frames up to the first failure of each run.
    """

    accuracy: float
    robustness: float
    frames_until_failure: int
    frames: int


@dataclass(frozen=True)
class LongTermScore:
    """Tracking precision, recall and F where F is highest."""

    precision: float
    recall: float
    f_score: float


@dataclass(frozen=True)
class LongTermRun:
    """What the long-term scores need of one sequence."""

    overlaps: np.ndarray  # (N,) float64, as VOT counts them; see `vot_overlaps`
    confidences: np.ndarray  # (N,) float64
    visible: int  # number of frames with the target


def got10k_overlaps(
    predicted: np.ndarray, annotated: np.ndarray, height: int, width: int
) -> np.ndarray:
    """Return the overlaps of the frames that GOT-10k counts, (M,) float64.

    All boxes (N, 4) are cut to the image first. The first frame, and those without the target, are
    left out.
    """
    counted = visible(annotated)
    counted[:1] = False
    ours, theirs = (_inside(boxes[counted], height, width) for boxes in (predicted, annotated))
    return ious(ours, theirs)


def got10k_score(overlaps: Sequence[np.ndarray]) -> Got10kScore:
    """Return GOT-10k's scores from the overlaps of all sequences (see `got10k_overlaps`).

    The server reports the mean over classes of sequences in place of that over frames.
    """
    every = np.concatenate(list(overlaps))
    return Got10kScore(
        float(every.mean()), float((every > 0.5).mean()), float((every > 0.75).mean())
    )


def otb_score(predicted: np.ndarray, annotated: np.ndarray) -> OtbScore:
    """Return the scores of one sequence as OTB counts them.

    Boxes are (N, 4); the first one counts as given. A frame without the target is missed at every
    threshold.
    """
    predicted = _with_true_start(predicted, annotated)
    seen = visible(annotated)
    overlap = np.where(seen, ious(predicted, annotated), -1.0)
    distance = np.where(seen, center_distances(predicted, annotated), np.inf)
    return OtbScore(
        float((overlap[:, None] > SUCCESS_THRESHOLDS).mean()),
        float((distance <= _PRECISION_PX).mean()),
    )


def lasot_score(predicted: np.ndarray, annotated: np.ndarray) -> LasotScore:
    """Return the scores of one sequence as LaSOT counts them; see `otb_score`.

    The normalised precision is the share of frames in which the centres differ by at most a fifth
    of the true box: 0.2 of its width and height, taken together as a distance.
    """
    both = otb_score(predicted, annotated)
    predicted = _with_true_start(predicted, annotated)
    seen = visible(annotated)
    offset = (predicted[:, :2] + predicted[:, 2:] / 2) - (annotated[:, :2] + annotated[:, 2:] / 2)
    relative = np.hypot(*(offset / np.where(seen[:, None], annotated[:, 2:], 1.0)).T)
    near = seen & (np.nan_to_num(relative, nan=np.inf) <= _NORMALISED_PRECISION)
    return LasotScore(both.success, both.precision, float(near.mean()))


def vot_overlaps(
    predicted: np.ndarray, annotated: np.ndarray, height: int, width: int
) -> np.ndarray:
    """Return VOT's overlaps (N,) of boxes (N, 4): in whole pixels, and within the image only.

    A frame without the target has overlap 0.
    """
    overlaps = np.zeros(len(annotated))
    for index, (box, truth) in enumerate(zip(predicted, annotated, strict=True)):
        if np.isfinite(box).all() and np.isfinite(truth).all():
            overlaps[index] = _vot_overlap(np.round(box), np.round(truth), height, width)
    return overlaps


def vot_score(predicted: np.ndarray, annotated: np.ndarray, height: int, width: int) -> VotScore:
    """Return accuracy and robustness of one run from its first frame, as VOT's multi-start test.

    The run has failed at the first of ten frames in a row with overlap 0.1 or less; frames without
    the target are no failure. Accuracy is the mean overlap up to there, the first frame counted
    with 0, robustness the share of frames up to there.
    """
    overlaps = vot_overlaps(predicted, annotated, height, width)
    overlaps[0] = 0.0
    lost = (overlaps <= _VOT_LOST_OVERLAP) & visible(annotated)
    progress, run = len(overlaps), 0
    for index, missed in enumerate(lost):
        run = run + 1 if missed else 0
        if run == _VOT_GRACE:
            progress = index + 1 - _VOT_GRACE
            break
    accuracy = float(overlaps[:progress].sum() / progress) if progress else 0.0
    return VotScore(accuracy, progress / len(overlaps), progress, len(overlaps))


def vot_total(runs: Sequence[VotScore]) -> VotScore:
    """Return accuracy and robustness over several runs, in which every frame has its weight."""
    overlap = sum(run.accuracy * run.frames_until_failure for run in runs)
    progress = sum(run.frames_until_failure for run in runs)
    frames = sum(run.frames for run in runs)
    return VotScore(overlap / progress if progress else 0.0, progress / frames, progress, frames)


def long_term_score(runs: Sequence[LongTermRun]) -> LongTermScore:
    """Return VOT's long-term scores over sequences.

    A box counts where its confidence reaches a threshold; precision is the mean overlap of the
    boxes that count, recall their summed overlap over the frames with the target. Of 100
    thresholds, spread evenly over the sorted confidences, the one with the highest F is taken.
    """
    thresholds = _long_term_thresholds(np.concatenate([run.confidences for run in runs]))
    curves = np.mean([_precision_recall(run, thresholds) for run in runs], axis=0)
    precision, recall = curves.T
    both = precision + recall
    f_scores = np.divide(2 * precision * recall, both, out=np.zeros_like(both), where=both > 0)
    best = int(f_scores.argmax())
    return LongTermScore(float(precision[best]), float(recall[best]), float(f_scores[best]))


def _long_term_thresholds(confidences: np.ndarray) -> np.ndarray:
    """Return the thresholds of the long-term scores, highest first."""
    ordered = np.sort(confidences[~np.isnan(confidences)])[::-1]
    inner = _LONG_TERM_THRESHOLDS - 2
    if len(ordered) > inner:
        step = len(ordered) // inner
        places = np.round(np.linspace(step, len(ordered) - step, inner)).astype(int)
        ordered = ordered[places]
    return np.concatenate([[np.inf], ordered, [-np.inf]])


def _precision_recall(run: LongTermRun, thresholds: np.ndarray) -> np.ndarray:
    """Return precision and recall at each threshold, (T, 2)."""
    curve = []
    for threshold in thresholds:
        counted = run.overlaps[run.confidences >= threshold]
        curve.append((counted.mean(), counted.sum() / run.visible) if len(counted) else (1.0, 0.0))
    return np.array(curve)


def _with_true_start(predicted: np.ndarray, annotated: np.ndarray) -> np.ndarray:
    """Return the predicted boxes with the true one in the first frame."""
    predicted = np.asarray(predicted, np.float64).copy()
    predicted[0] = annotated[0]
    return predicted


def _inside(boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return boxes (N, 4) cut to an image, as GOT-10k's toolkit cuts them.

    A corner that leaves the image moves to its edge; the size is kept as far as it fits.
    """
    corner = np.clip(boxes[:, :2], 0, (width, height))
    return np.hstack([corner, np.clip(boxes[:, 2:], 0, np.array((width, height)) - corner)])


def _vot_overlap(a: np.ndarray, b: np.ndarray, height: int, width: int) -> float:
    """Return the overlap of two boxes of whole pixels, as VOT's toolkit rasterises them."""
    first = np.array([[*box[:2], *(box[:2] + box[2:] - 1)] for box in (a, b)])
    low, high = first[:, :2].min(0), first[:, 2:].max(0)
    if (low >= high).any():
        return 1.0  # the toolkit takes two regions that are a line or less for equal
    low, high = np.maximum(low, 0), np.minimum(high, (width - 1, height - 1))
    if (low >= high).any():
        return 0.0
    starts, ends = np.maximum(first[:, :2], low), np.minimum(first[:, 2:], high)
    areas = np.clip(ends - starts + 1, 0, None).prod(1)
    shared = np.clip(ends.min(0) - starts.max(0) + 1, 0, None).prod()
    union = areas.sum() - shared
    return float(shared / union) if union > 0 else 0.0

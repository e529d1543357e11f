# SPDX-License-Identifier: Apache-2.0
"""Measure how well predicted boxes and masks fit annotated ones.

One sequence is tracked once from its first frame (one-pass evaluation, "OPE" of Wu, Lim and Yang,
"Object Tracking Benchmark", TPAMI 2015). Of its boxes:

* **Overlap** of a frame is intersection over union of the two boxes, 0 where the tracker gave
  none.
* **Success rate** at threshold t is the share of the frames with overlap above t. **Success AUC**
  is its mean over the 21 thresholds 0, 0.05, …, 1.
* **Precision at 20 px** is the share of the frames whose box centres are at most 20 px apart.
* A **failure** is a run of frames with overlap 0, however long: the target was lost once.

Of its masks (Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object
Segmentation", CVPR 2016, section 4.1, written anew):

* **J** (region similarity) of a frame is intersection over union of the two masks.
* **F** (contour accuracy) of a frame compares outlines. A pixel of one outline counts as matched
  if the other comes within 0.8 % of the image's diagonal; F is the harmonic mean of the matched
  shares of both.

Two kinds of frames do not count: the first, whose box or mask the tracker is given (the
benchmark's own code counts it, which flatters every tracker a little), and frames without the
target (no annotation, or an empty one). A mean over several sequences gives each the same weight.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass

import numpy as np

from tracker_ros.evaluation.sequences import AnnotatedSequence
from tracker_ros.geometry import ious, tight_box, visible, xywh_to_cxcywh

SUCCESS_THRESHOLDS: np.ndarray = np.arange(21) / 20.0
"""Overlap thresholds of the success curve: 0, 0.05, …, 1."""

PRECISION_RADIUS = 20.0
"""Largest distance of centres that counts as precise, in pixels."""

CONTOUR_TOLERANCE = 0.008
"""Distance up to which outlines match, as a fraction of the image's diagonal."""


@dataclass(frozen=True)
class SequenceScore:
    """The scores of one tracker on one sequence, as the module defines them.

    Only frames that count are counted; the success curve has one rate for each of
    `SUCCESS_THRESHOLDS`. The speed is None if it was not measured.
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
    """The scores of one tracker over several sequences.

    Each sequence has the same weight in a mean, failures are summed, and the speed is the number
    of frames divided by the time for all of them; None if it was not measured.
    """

    tracker: str
    auc: float
    precision: float
    failures: int
    success_curve: tuple[float, ...]
    frames_per_second: float | None
    sequences: tuple[SequenceScore, ...]


def center_distances(predicted: np.ndarray, annotated: np.ndarray) -> np.ndarray:
    """Return the distances (N,) of the centres of boxes (N, 4); infinity where not finite."""
    offset = (xywh_to_cxcywh(predicted) - xywh_to_cxcywh(annotated))[:, :2]
    distance = np.hypot(offset[:, 0], offset[:, 1])
    return np.where(np.isfinite(distance), distance, np.inf)


def success_curve(overlap: np.ndarray) -> np.ndarray:
    """Return the success rate at each of `SUCCESS_THRESHOLDS`, (21,); zeros without frames."""
    overlap = np.asarray(overlap, dtype=np.float64)
    if overlap.size == 0:
        return np.zeros(len(SUCCESS_THRESHOLDS))
    return (overlap[None, :] > SUCCESS_THRESHOLDS[:, None]).mean(1)


def count_failures(overlap: np.ndarray) -> int:
    """Return the number of runs of frames with overlap 0."""
    lost = np.concatenate([[False], np.asarray(overlap) <= 0.0])
    return int((lost[1:] & ~lost[:-1]).sum())


def score_sequence(
    name: str,
    predicted: np.ndarray,
    annotated: np.ndarray,
    seconds: float | None = None,
) -> SequenceScore:
    """Score one tracked sequence, of which the first frame, which was given, does not count.

    Predicted and annotated boxes are (N, 4) x, y, w, h in pixels; annotated rows that are not
    finite or are empty do not count. `seconds` is the time that tracking N − 1 frames took. Raises
    ValueError if the shapes differ, or no frame after the first has a target.
    """
    predicted = np.asarray(predicted, dtype=np.float64)
    annotated = np.asarray(annotated, dtype=np.float64)
    if predicted.ndim != 2 or predicted.shape[1] != 4 or predicted.shape != annotated.shape:
        raise ValueError(
            f"predicted boxes have shape {predicted.shape} and annotated ones "
            f"{annotated.shape}; both must be (N, 4) with one row per frame"
        )
    counted = visible(annotated)
    counted[:1] = False
    if not counted.any():
        raise ValueError(f"sequence {name!r} has no annotated target after its first frame")
    overlap = ious(predicted[counted], annotated[counted])
    distance = center_distances(predicted[counted], annotated[counted])
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
    """Average the scores of one tracker over its sequences; raises ValueError without any."""
    if not scores:
        raise ValueError(f"no sequences were tracked with {name!r}; give at least one")
    frames = [score.frames for score in scores]
    rates = [score.frames_per_second or 0.0 for score in scores]
    speed = None
    if all(rate > 0 for rate in rates):
        speed = sum(frames) / sum(n / rate for n, rate in zip(frames, rates, strict=True))
    curve = np.mean([score.success_curve for score in scores], axis=0)
    return TrackerScore(
        tracker=name,
        auc=float(np.mean([score.auc for score in scores])),
        precision=float(np.mean([score.precision for score in scores])),
        failures=sum(score.failures for score in scores),
        success_curve=tuple(float(rate) for rate in curve),
        frames_per_second=speed,
        sequences=tuple(scores),
    )


@dataclass(frozen=True)
class DavisScore:
    """J (region) and F (contour) of one object as DAVIS counts them.

    The mean; the recall, which is the share of frames above 0.5; the decay, which is the mean of
    the first quarter of the frames less that of the last.
    """

    region: float
    region_recall: float
    region_decay: float
    contour: float
    contour_recall: float
    contour_decay: float


@dataclass(frozen=True)
class MaskScore:
    """Mean J (region) and mean F (contour) of masks over the frames that count of a sequence.

    `davis` has them as DAVIS counts; None for a sequence of less than three frames.
    """

    sequence: str
    frames: int
    region: float
    contour: float
    davis: DavisScore | None = None


@dataclass(frozen=True)
class MaskRow:
    """The scores of one kind of masks, one for each sequence that has true masks."""

    masks: str
    scores: tuple[MaskScore, ...]

    @property
    def region(self) -> float:
        """Mean J over the sequences."""
        return float(np.mean([score.region for score in self.scores]))

    @property
    def contour(self) -> float:
        """Mean F over the sequences."""
        return float(np.mean([score.contour for score in self.scores]))

    @property
    def davis(self) -> DavisScore | None:
        """The means over the objects as DAVIS counts them, each with the same weight."""
        objects = [astuple(score.davis) for score in self.scores if score.davis is not None]
        return DavisScore(*np.mean(objects, axis=0).tolist()) if objects else None


def region_similarity(found: np.ndarray, truth: np.ndarray) -> float:
    """Return J of two masks (H, W) bool; 1 where both are empty."""
    either = np.count_nonzero(found | truth)
    return np.count_nonzero(found & truth) / either if either else 1.0


def contour_accuracy(found: np.ndarray, truth: np.ndarray) -> float:
    """Return F of two masks (H, W) bool; 1 if neither has an outline, 0 if only one has."""
    reach = math.ceil(CONTOUR_TOLERANCE * math.hypot(*truth.shape))
    ours, theirs = outline(found), outline(truth)
    if not ours.any() or not theirs.any():
        return float(ours.any() == theirs.any())
    precision = (distance_to(theirs)[ours] <= reach).mean()
    recall = (distance_to(ours)[theirs] <= reach).mean()
    both = precision + recall
    return float(2 * precision * recall / both) if both else 0.0


def outline(mask: np.ndarray) -> np.ndarray:
    """Return (H, W) bool: pixels whose right, lower or lower right neighbour differs."""
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    right, below, across = padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    return (mask != right) | (mask != below) | (mask != across)


def distance_to(pixels: np.ndarray) -> np.ndarray:
    """Return (H, W) float32: the distance of each pixel from the nearest one set."""
    import cv2

    return cv2.distanceTransform((~pixels).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)


def filled_box(box: Sequence[float], height: int, width: int) -> np.ndarray:
    """Return (height, width) bool: pixels whose middles lie in x, y, w, h; none if not finite."""
    x, y, w, h = box
    across, down = np.arange(width) + 0.5, np.arange(height) + 0.5
    return ((down >= y) & (down < y + h))[:, None] & ((across >= x) & (across < x + w))


def filled_boxes(boxes: np.ndarray, sequence: AnnotatedSequence) -> Iterable[np.ndarray]:
    """Yield the boxes (N, 4) of a sequence's frames as masks."""
    return (filled_box(box, *sequence.mask(index).shape) for index, box in enumerate(boxes))


def filled_true_boxes(sequence: AnnotatedSequence) -> Iterable[np.ndarray]:
    """Yield the tight boxes of the true masks as masks: about the best that boxes can reach."""
    for index in range(len(sequence)):
        truth = sequence.mask(index)
        yield filled_box(tight_box(truth), *truth.shape) if truth.any() else truth


def davis_score(regions: Sequence[float], contours: Sequence[float]) -> DavisScore:
    """Return DAVIS's scores of one object from J and F of all frames, at least three.

    Neither the first frame nor the last counts. Frames without the object do: there, an empty mask
    is right (J and F 1), any other is wrong.
    """
    return DavisScore(*_statistics(regions[1:-1]), *_statistics(contours[1:-1]))


def _statistics(values: Sequence[float]) -> tuple[float, float, float]:
    """Return mean, recall and decay of one number per frame, as DAVIS defines them."""
    array = np.asarray(values, np.float64)
    edges = np.round(np.linspace(1, len(array), 5) + 1e-10).astype(int) - 1
    first, last = array[edges[0] : edges[1] + 1], array[edges[3] : edges[4] + 1]
    recall = (array > 0.5 + np.finfo(float).eps).mean()
    return float(array.mean()), float(recall), float(first.mean() - last.mean())


def score_masks(sequence: AnnotatedSequence, masks: Iterable[np.ndarray]) -> MaskScore:
    """Score masks (H, W) bool, one per frame; the first, which was given, does not count.

    Raises ValueError if no frame after the first has a target.
    """
    regions, contours, counted = [], [], []
    for index, found in enumerate(masks):
        truth = sequence.mask(index)
        regions.append(region_similarity(found, truth) if index else 1.0)
        contours.append(contour_accuracy(found, truth) if index else 1.0)
        counted.append(bool(index and truth.any()))
    if not any(counted):
        raise ValueError(f"no mask of {sequence.name!r} after the first shows the target")
    mean_region, mean_contour = (float(np.mean(np.array(j)[counted])) for j in (regions, contours))
    davis = davis_score(regions, contours) if len(regions) > 2 else None
    return MaskScore(sequence.name, sum(counted), mean_region, mean_contour, davis)

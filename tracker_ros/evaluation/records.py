# SPDX-License-Identifier: Apache-2.0
"""What a tracker did in every frame of a sequence, beside the truth; and what follows from it.

A record is a JSON file. `tracker-ros evaluate` writes one for each tracker and sequence below
``records/``, `tracker-ros bag` one for a run with a known truth. `tracker-ros compare` reads them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tracker_ros.evaluation.metrics import SequenceScore, score_sequence
from tracker_ros.evaluation.ope import TrackedSequence
from tracker_ros.evaluation.sequences import AnnotatedSequence
from tracker_ros.geometry import ious, visible
from tracker_ros.io.video_source import DEFAULT_FPS

TRACKING = "TRACKING"
_KIND = "tracker_ros/sequence_record"


@dataclass(frozen=True)
class SequenceRecord:
    """One tracker on one sequence, frame by frame; the first frame is given and does not count."""

    tracker: str
    sequence: str
    # the image files, or one source that `open_video` opens; empty if unknown
    images: tuple[str, ...]
    times: np.ndarray  # (N,) float64, seconds from the first frame
    # (N, 4) float64, x, y, w, h in pixels; NaN where the target is absent or unknown
    truth: np.ndarray
    known: np.ndarray  # (N,) bool, whether it is known where the target is, or that it is absent
    boxes: np.ndarray  # (N, 4) float64, the tracker's boxes; NaN where it gave none
    scores: np.ndarray  # (N,) float64 in [0, 1]
    # name of the target's state in each frame; empty if they were not noted
    states: tuple[str, ...]
    seconds: np.ndarray  # (N,) float64, time spent on each frame
    first_image: int = 0  # number of the first frame within the source
    attributes: tuple[str, ...] = ()  # what makes the sequence difficult, by the data set

    @property
    def overlaps(self) -> np.ndarray:
        """(N,) intersection over union; NaN where there is no target to overlap with."""
        found = ious(self.boxes, self.truth)
        return np.where(visible(self.truth), np.where(np.isfinite(found), found, 0.0), np.nan)

    def score(self) -> SequenceScore:
        """Return the scores; raises ValueError if no frame after the first has a target."""
        return score_sequence(
            self.sequence, self.boxes, self.truth, float(self.seconds.sum()) or None
        )

    def as_data(self) -> dict[str, Any]:
        """Return the record as plain data for JSON."""
        return {
            "kind": _KIND,
            "tracker": self.tracker,
            "sequence": self.sequence,
            "images": list(self.images),
            "first_image": self.first_image,
            "attributes": list(self.attributes),
            "times": np.round(self.times, 6).tolist(),
            "truth": _boxes_data(self.truth),
            "known": self.known.tolist(),
            "boxes": _boxes_data(self.boxes),
            "scores": np.round(self.scores, 4).tolist(),
            "states": list(self.states),
            "seconds": np.round(self.seconds, 6).tolist(),
        }

    @staticmethod
    def from_data(data: dict[str, Any]) -> SequenceRecord:
        """Return the record that data hold; raises ValueError, KeyError or TypeError."""
        if data.get("kind") != _KIND:
            raise ValueError("it is no record of a sequence")
        truth = _boxes_from(data["truth"])
        record = SequenceRecord(
            str(data["tracker"]),
            str(data["sequence"]),
            tuple(map(str, data["images"])),
            np.array(data["times"], np.float64),
            truth,
            np.array(data["known"], bool),
            _boxes_from(data["boxes"]),
            np.array(data["scores"], np.float64),
            tuple(map(str, data["states"])),
            np.array(data["seconds"], np.float64),
            int(data["first_image"]),
            tuple(map(str, data["attributes"])),
        )
        sizes = {len(truth), len(record.boxes), len(record.scores), len(record.times)}
        if len(sizes) != 1 or (record.states and len(record.states) != len(truth)):
            raise ValueError("its lists have different lengths")
        return record


def _boxes_data(boxes: np.ndarray) -> list[list[float] | None]:
    return [
        np.round(box, 2).tolist() if np.isfinite(box).all() else None
        for box in np.asarray(boxes, np.float64)
    ]


def _boxes_from(data: Sequence[Sequence[float] | None]) -> np.ndarray:
    rows = [[np.nan] * 4 if row is None else row for row in data]
    return np.array(rows, np.float64).reshape(-1, 4)


def record_sequence(
    tracker: str, sequence: AnnotatedSequence, answer: TrackedSequence
) -> SequenceRecord:
    """Return the record of a one-pass evaluation; its times are those of 30 frames per second."""
    count = len(sequence)
    images = tuple(str(f.resolve()) for f in sequence.frames if isinstance(f, Path))
    seconds = answer.frame_seconds if len(answer.frame_seconds) == count else np.zeros(count)
    attributes = sequence.about.get("attributes", ())
    return SequenceRecord(
        tracker,
        sequence.name,
        images if len(images) == count else (),
        np.arange(count) / DEFAULT_FPS,
        sequence.boxes,
        np.ones(count, bool),
        answer.boxes,
        answer.scores,
        answer.states,
        seconds,
        attributes=tuple(map(str, attributes)) if isinstance(attributes, list) else (),
    )


def read_record(path: Path) -> SequenceRecord:
    """Read a record; raises ValueError, which names the file, if it is none."""
    try:
        return SequenceRecord.from_data(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no record of a sequence: {error!r}") from error


@dataclass(frozen=True)
class RunQuality:
    """What a user notices of a run; times in seconds.

    A target is lost in a frame that shows it if the tracker's box does not overlap it at all or
    is missing.
    """

    time_to_loss: float | None  # from the start to the first loss; None if it was never lost
    # from each loss to the next overlap; those never found are left out
    times_to_find_again: tuple[float, ...]
    never_found: int  # losses that lasted to the end
    # share of the frames reported as TRACKING, and whose truth is known, in which the box does not
    # overlap the target; None if there are none
    false_tracking: float | None

    @staticmethod
    def of(record: SequenceRecord) -> RunQuality:
        """Return the quality of a record."""
        overlaps, times = record.overlaps, record.times - record.times[:1]
        first_loss, lost_at, again = None, None, []
        for place in range(1, len(overlaps)):
            if np.isnan(overlaps[place]):
                continue
            if overlaps[place] > 0 and lost_at is not None:
                again.append(float(times[place] - lost_at))
                lost_at = None
            elif overlaps[place] <= 0 and lost_at is None:
                lost_at = float(times[place])
                first_loss = lost_at if first_loss is None else first_loss
        false = None
        if record.states:
            told = np.array([state == TRACKING for state in record.states]) & record.known
            told[:1] = False
            wrong = told & ~(np.nan_to_num(overlaps) > 0)
            false = float(wrong.sum() / told.sum()) if told.any() else None
        return RunQuality(first_loss, tuple(again), int(lost_at is not None), false)

    def as_data(self) -> dict[str, Any]:
        """Return it as plain data for JSON."""
        again = self.times_to_find_again
        return {
            "time_to_loss_s": self.time_to_loss,
            "losses": len(again) + self.never_found,
            "times_to_find_again_s": [round(value, 6) for value in again],
            "mean_time_to_find_again_s": round(float(np.mean(again)), 6) if again else None,
            "never_found_again": self.never_found,
            "false_tracking_share": self.false_tracking,
        }

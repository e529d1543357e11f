# SPDX-License-Identifier: Apache-2.0
"""One-pass evaluation: start on the first frame's true box or mask and track to the end."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tracker_ros.cache import cache_folder
from tracker_ros.evaluation.sequences import AnnotatedSequence
from tracker_ros.following.follower import Follower
from tracker_ros.following.frames import number_frames
from tracker_ros.following.redetection import RedetectionSettings
from tracker_ros.following.selection import Selection
from tracker_ros.following.target_set import TargetSet
from tracker_ros.io.video_source import BadFrame
from tracker_ros.output_files import write_whole
from tracker_ros.tracker import Tracker, TrackResult
from tracker_ros.video_tracking import telling_bad_frames

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrackedSequence:
    """A tracker's results on a sequence."""

    boxes: np.ndarray  # (N, 4) float64, x, y, w, h in pixels; the first is the given one
    scores: np.ndarray  # (N,) float64 in [0, 1], see `TargetReport.score`; the first is 1
    seconds: float  # time spent on tracking and on model updates, without reading images
    # (H, W) bool per frame, if the tracker gives masks and the sequence has true ones; else empty
    masks: tuple[np.ndarray, ...] = ()
    # (N,) float64, the time spent on each frame; 0 for the first one
    frame_seconds: np.ndarray = field(default_factory=lambda: np.zeros(0))
    # name of the target's state in each frame; empty if they are not known
    states: tuple[str, ...] = ()
    # a line for each frame whose image could not be read. The tracker has not seen it: its last
    # answer counts there, with score 0.
    bad_frames: tuple[str, ...] = ()


def run_ope(
    tracker: Tracker,
    sequence: AnnotatedSequence,
    on_frame: Callable[[], None] = lambda: None,
    *,
    redetection: RedetectionSettings | None = None,
) -> TrackedSequence:
    """Track a sequence from its first box, forgetting the tracker's earlier target.

    `on_frame` is called after each frame, e.g. to move a progress bar. `redetection` says how a
    lost target is looked for. A box that is not finite counts as no answer.
    """
    x, y, w, h = sequence.boxes[0].tolist()
    return _run(tracker, [sequence], [Selection((x, y, w, h))], on_frame, redetection)[0]


def run_objects(tracker: Tracker, sequences: Sequence[AnnotatedSequence]) -> list[TrackedSequence]:
    """Track all objects of one video at once, from their first masks.

    A tracker that segments gives each pixel to one object. The time of each object is that of all,
    divided by their number.
    """
    return _run(tracker, sequences, [Selection(mask=sequence.mask(0)) for sequence in sequences])


def _run(
    tracker: Tracker,
    sequences: Sequence[AnnotatedSequence],
    selections: Sequence[Selection],
    on_frame: Callable[[], None] = lambda: None,
    redetection: RedetectionSettings | None = None,
) -> list[TrackedSequence]:
    """Track targets of one video. What the tracker raises ends the run."""
    first, bad_frames = sequences[0], []

    def decode(number: int) -> np.ndarray:
        try:
            return first.image(number)
        except ValueError as error:
            raise BadFrame(f"frame {number}: {error}") from error

    targets = TargetSet(tracker=tracker, redetection=redetection)
    complain = telling_bad_frames(lambda frame: bad_frames.append(str(frame)))
    follower = Follower(decode, targets, complain=complain)
    times = [0.0]
    found: list[list[TrackResult]] = []
    scores, states = [], []
    for report in follower.follow(selections, number_frames(range(len(first)))):
        results = [target.result for target in report.targets if target.result is not None]
        found.append(results or found[-1])
        scores.append([target.score if results else 0.0 for target in report.targets])
        states.append([target.state.name for target in report.targets])
        times.append(follower.tracking_seconds)
        on_frame()
    return [
        TrackedSequence(
            np.array([frame[place].box for frame in found], np.float64),
            np.array([frame[place] for frame in scores], np.float64),
            follower.tracking_seconds / len(sequences),
            _masks_of(sequence, [frame[place].mask for frame in found]) if sequence.masks else (),
            np.diff(times) / len(sequences),
            tuple(frame[place] for frame in states),
            tuple(bad_frames),
        )
        for place, sequence in enumerate(sequences)
    ]


def _masks_of(
    sequence: AnnotatedSequence, found: Sequence[np.ndarray | None]
) -> tuple[np.ndarray, ...]:
    """Return the true mask of the first frame and the masks found in the others, if any.

    Where the first one is found later, because images could not be read, the true mask counts
    until then.
    """
    masks = [mask for mask in found[1:] if mask is not None]
    missing = len(found) - len(masks)
    return (*[sequence.mask(0)] * missing, *masks) if masks else ()


class AnswerCache:
    """Results of deterministic trackers kept on disk, so that baselines are not run again.

    An entry belongs to a key (tracker, its version, whatever decides its results) and to a
    sequence's contents: its boxes and its frames' names and sizes. Without a folder nothing is
    kept.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    @staticmethod
    def default() -> AnswerCache:
        """Return the cache in the user's cache folder, if there is one."""
        try:
            return AnswerCache(cache_folder("evaluation"))
        except RuntimeError:  # no home
            return AnswerCache(None)

    def get(self, key: str, sequence: AnnotatedSequence) -> TrackedSequence | None:
        """Return the kept result, or None."""
        file = self._file(key, sequence)
        if file is None or not file.is_file():
            return None
        try:
            kept = json.loads(file.read_text())
            boxes, scores = (np.array(kept[name], np.float64) for name in ("boxes", "scores"))
            seconds, states = float(kept["seconds"]), tuple(map(str, kept["states"]))
            times = np.array(kept["frame_seconds"], np.float64)
            if boxes.shape != (len(sequence), 4) or scores.shape != (len(sequence),):
                raise ValueError(f"{boxes.shape} boxes of {len(sequence)} frames")
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            _LOG.warning("%s is damaged (%s), and is made again", file, error)
            return None
        return TrackedSequence(boxes, scores, seconds, frame_seconds=times, states=states)

    def put(self, key: str, sequence: AnnotatedSequence, answer: TrackedSequence) -> None:
        """Keep a result; a folder that cannot be written costs a warning."""
        file = self._file(key, sequence)
        if file is None:
            return
        content = {
            "key": key,
            "sequence": sequence.name,
            "seconds": answer.seconds,
            "boxes": answer.boxes.tolist(),
            "scores": answer.scores.tolist(),
            "frame_seconds": answer.frame_seconds.tolist(),
            "states": list(answer.states),
        }
        try:
            write_whole(file, json.dumps(content))
        except OSError as error:
            _LOG.warning("results of %s are not kept: %s", key, error)

    def _file(self, key: str, sequence: AnnotatedSequence) -> Path | None:
        if self.folder is None:
            return None
        digest = hashlib.sha256(f"{key}\n{sequence.name}\n".encode())
        digest.update(np.ascontiguousarray(sequence.boxes).tobytes())
        for frame in sequence.frames:
            if isinstance(frame, np.ndarray):
                digest.update(np.ascontiguousarray(frame[::8, ::8]).tobytes())
            else:
                digest.update(f"{frame.name} {frame.stat().st_size}\n".encode())
        return self.folder / f"{digest.hexdigest()[:32]}.json"

# SPDX-License-Identifier: Apache-2.0
"""Run one tracker over sequences, keep its results and score them.

A failure on one sequence is noted, and the others go on. Whatever is finished stays in the
`TrackerRun` when an exception ends the rest.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tracker_ros.evaluation.benchmarks import BenchmarkRecord, record_benchmarks
from tracker_ros.evaluation.metrics import (
    MaskRow,
    MaskScore,
    SequenceScore,
    filled_boxes,
    filled_true_boxes,
    score_masks,
    score_sequence,
)
from tracker_ros.evaluation.ope import AnswerCache, TrackedSequence, run_objects, run_ope
from tracker_ros.evaluation.records import SequenceRecord, record_sequence
from tracker_ros.evaluation.sequences import AnnotatedSequence
from tracker_ros.following.redetection import RedetectionSettings
from tracker_ros.geometry import visible
from tracker_ros.tracker import Tracker

Answers = dict[str, TrackedSequence]
"""Results of a tracker by the name of the sequence."""
Video = list[AnnotatedSequence]
"""The targets of one video."""


@dataclass(frozen=True)
class Entry:
    """A tracker that is measured."""

    name: str  # its name in tables
    # loads it, when it is first needed; returns it and a note for the report
    create: Callable[[], tuple[Tracker, str]]
    cache_key: str = ""  # what its results depend on, if they may be kept in the cache; else empty
    fresh: bool = False  # whether kept results are made anew
    # how lost targets are looked for; None looks where they were lost alone
    redetection: RedetectionSettings | None = None


@dataclass(frozen=True)
class Listener:
    """What happens beside a run."""

    # called with the tracker's and the sequence's name
    started: Callable[[str, str], None] = lambda tracker, sequence: None
    # called with the number of frames that were finished
    frames: Callable[[int], None] = lambda count: None
    # called with the tracker's name, the sequence's and the reason
    failed: Callable[[str, str, str], None] = lambda tracker, sequence, why: None
    # called with the same and a line about each frame that could not be read
    unread: Callable[[str, str, Sequence[str]], None] = lambda tracker, sequence, lines: None
    # called with the tracker's name, the sequences of a video, the results on them and those that
    # were started on the first masks, e.g. to write them
    answered: Callable[[str, Sequence[AnnotatedSequence], Answers, Answers], None] = (
        lambda tracker, video, answers, from_masks: None
    )
    # chooses which videos to track, given the tracker's name and all videos
    claim: Callable[[str, Sequence[Video]], Iterable[Video]] = lambda tracker, videos: videos


_ONCE = ("note", "failed", "bad_frames")
_BY_SEQUENCE = ("scores", "records", "tracked", "regions", "regions_from_mask")


@dataclass
class TrackerRun:
    """What is known of one tracker so far."""

    entry: Entry
    note: str = ""  # a remark on it, e.g. which weights
    failed: dict[str, str] = field(default_factory=dict)  # sequences that it failed on, and why
    # sequences with frames that could not be read, and a line for each of these
    bad_frames: dict[str, tuple[str, ...]] = field(default_factory=dict)
    # its scores, one for each sequence that was finished
    scores: list[SequenceScore] = field(default_factory=list)
    # what the scores of the benchmarks need, one for each of these
    records: list[BenchmarkRecord] = field(default_factory=list)
    # the results frame by frame, one for each of these
    tracked: list[SequenceRecord] = field(default_factory=list)
    # J and F of its masks, where there are true ones
    regions: list[MaskScore] = field(default_factory=list)
    # the same, started on the first mask in place of the first box
    regions_from_mask: list[MaskScore] = field(default_factory=list)
    _tracker: Tracker | None = None

    @property
    def full_note(self) -> str:
        """The note, with how lost targets were looked for and what failed."""
        searched = "lost targets looked for in the whole image" if self.entry.redetection else ""
        failed = f"failed on {', '.join(self.failed)}" if self.failed else ""
        count = sum(map(len, self.bad_frames.values()))
        unread = f"{count} frames unread" if count else ""
        return ", ".join(filter(None, (self.note, searched, failed, unread)))

    def mask_rows(self) -> list[MaskRow]:
        """Return the rows of the table of masks."""
        name = self.entry.name
        label = name if self.regions_from_mask else f"{name}, box filled"
        rows = [(label, self.regions), (f"{name}, from the first mask", self.regions_from_mask)]
        return [MaskRow(label, tuple(given)) for label, given in rows if given]

    def run(
        self,
        sequences: Sequence[AnnotatedSequence],
        cache: AnswerCache,
        listener: Listener = Listener(),
    ) -> None:
        """Track and score all sequences; from the cache where the tracker has a key for it.

        Raises what loading the tracker raises.
        """
        for video in listener.claim(self.entry.name, videos_of(sequences)):
            answers: Answers = {}
            for sequence in video:
                listener.started(self.entry.name, sequence.name)
                answer = self._answer(sequence, cache, listener)
                if answer is not None:
                    answers[sequence.name] = answer
            with self._one_sequence(video[0].video or video[0].name, listener):
                from_masks = self._from_masks(video, answers)
                listener.answered(self.entry.name, video, answers, from_masks)
                self._score(video, answers, from_masks)

    def findings(self) -> dict[str, Any]:
        """Return what was found, to be sent to another process."""
        return {name: getattr(self, name) for name in (*_ONCE, *_BY_SEQUENCE)}

    def take_findings(self, parts: Sequence[dict[str, Any]], order: Sequence[str]) -> None:
        """Replace what was found by the `findings` of several processes, in a given order."""
        places = {name: place for place, name in enumerate(order)}
        self.note = next((part["note"] for part in parts if part["note"]), self.note)
        self.failed = {name: why for part in parts for name, why in part["failed"].items()}
        self.bad_frames = {name: b for part in parts for name, b in part["bad_frames"].items()}
        for name in _BY_SEQUENCE:
            found = [each for part in parts for each in part[name]]
            setattr(self, name, sorted(found, key=lambda each: places[each.sequence]))

    def _answer(
        self, sequence: AnnotatedSequence, cache: AnswerCache, listener: Listener
    ) -> TrackedSequence | None:
        """Return the results on one sequence, kept ones or new ones; None after a failure."""
        key = self.entry.cache_key
        answer = cache.get(key, sequence) if key and not self.entry.fresh else None
        if answer is not None:
            listener.frames(len(sequence))
            return answer
        if self._tracker is None:
            self._tracker, self.note = self.entry.create()
        with self._one_sequence(sequence.name, listener):
            answer = run_ope(
                self._tracker,
                sequence,
                lambda: listener.frames(1),
                redetection=self.entry.redetection,
            )
        if answer is None:
            return None
        if answer.bad_frames:
            self.bad_frames[sequence.name] = answer.bad_frames
            listener.unread(self.entry.name, sequence.name, answer.bad_frames)
        elif key and not answer.masks:
            cache.put(key, sequence, answer)
        return answer

    def _from_masks(self, video: list[AnnotatedSequence], answers: Answers) -> Answers:
        """Track the objects of a video from their first masks, if the tracker segments."""
        complete = len(answers) == len(video)
        if self._tracker is None or not complete or not all(a.masks for a in answers.values()):
            return {}
        again = run_objects(self._tracker, video)
        return {sequence.name: answer for sequence, answer in zip(video, again, strict=True)}

    def _score(self, video: Video, answers: Answers, from_masks: Answers) -> None:
        """Score the results on the targets of one video."""
        for sequence in video:
            answer = answers.get(sequence.name)
            if answer is None or not visible(sequence.boxes[1:]).any():
                continue
            record = record_benchmarks(sequence, answer)
            self.scores.append(
                score_sequence(sequence.name, answer.boxes, sequence.boxes, answer.seconds)
            )
            self.records.append(record)
            self.tracked.append(record_sequence(self.entry.name, sequence, answer))
            if sequence.masks:
                masks = answer.masks or filled_boxes(answer.boxes, sequence)
                self.regions.append(score_masks(sequence, masks))
            if sequence.name in from_masks:
                masks = from_masks[sequence.name].masks
                self.regions_from_mask.append(score_masks(sequence, masks))

    @contextlib.contextmanager
    def _one_sequence(self, name: str, listener: Listener) -> Iterator[None]:
        """Note a failure on one sequence, so that the others go on.

        OpenCV raises exceptions of its own class, and the more exotic ones are not documented.
        """
        try:
            yield
        except Exception as error:
            self.failed[name] = str(error).strip().replace("\n", " ") or repr(error)
            listener.failed(self.entry.name, name, self.failed[name])


def videos_of(sequences: Sequence[AnnotatedSequence]) -> list[Video]:
    """Group the sequences that are targets of one video."""
    videos: dict[str, Video] = {}
    for sequence in sequences:
        videos.setdefault(sequence.video or f"/{sequence.name}", []).append(sequence)
    return list(videos.values())


def best_boxes(sequences: Sequence[AnnotatedSequence]) -> list[MaskRow]:
    """Score the filled true boxes, the best that boxes can reach, where there are masks."""
    with_masks = [sequence for sequence in sequences if sequence.masks]
    scores = [score_masks(sequence, filled_true_boxes(sequence)) for sequence in with_masks]
    return [MaskRow("true box, filled", tuple(scores))] if scores else []

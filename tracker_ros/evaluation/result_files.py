# SPDX-License-Identifier: Apache-2.0
"""Write tracking results in the forms that the tools and servers of the benchmarks read.

| Form | Files | For |
| --- | --- | --- |
| ``boxes`` | ``SEQUENCE.txt``, x,y,w,h per frame | OTB, LaSOT, TrackingNet, UAV123, pytracking |
| ``got10k`` | ``SEQUENCE/SEQUENCE_001.txt``, ``…_time.txt`` | GOT-10k's toolkit and server |
| ``vot`` | ``baseline/SEQUENCE/SEQUENCE_001.txt``, times and scores | results of a VOT workspace |
| ``davis`` | ``VIDEO/00000.png``, indexed, one label per object | DAVIS 2016 and 2017 |
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from tracker_ros.evaluation.metrics import filled_boxes
from tracker_ros.evaluation.ope import TrackedSequence
from tracker_ros.evaluation.sequences import AnnotatedSequence
from tracker_ros.io.mask_files import write_label_map
from tracker_ros.output_files import write_whole

FORMS = ("boxes", "got10k", "vot", "davis")


def save_results(
    folder: Path, form: str, sequence: AnnotatedSequence, answer: TrackedSequence, shift: float = 0
) -> None:
    """Write the results on one sequence below a tracker's folder, in any form except ``davis``.

    `shift` is added to x and y: 1 where the benchmark counts pixels from 1. See `save_label_maps`.
    """
    name, boxes = sequence.name, answer.boxes + np.array([shift, shift, 0.0, 0.0])
    if form == "boxes":
        write_whole(folder / f"{name}.txt", _box_lines(boxes))
    elif form == "got10k":
        write_whole(folder / name / f"{name}_001.txt", _box_lines(boxes))
        write_whole(folder / name / f"{name}_time.txt", _number_lines(answer.frame_seconds))
    elif form == "vot":
        # The first line stands for the start, which the tracker did not answer.
        place, start = folder / "baseline" / name / name, "1\n"
        lines = start + _box_lines(boxes[1:])
        write_whole(place.with_name(f"{name}_001.txt"), lines)
        times = _number_lines(answer.frame_seconds)
        write_whole(place.with_name(f"{name}_001_time.value"), times)
        scores = "\n" + _number_lines(answer.scores[1:])
        write_whole(place.with_name(f"{name}_001_confidence.value"), scores)
    else:
        raise ValueError(f"form is {form!r}; expected one of {', '.join(FORMS)}")


def save_video(
    folder: Path,
    form: str,
    video: Sequence[AnnotatedSequence],
    answers: Mapping[str, TrackedSequence],
    from_masks: Mapping[str, TrackedSequence],
    shift: float = 0,
) -> None:
    """Write the results on the targets of one video in one form, below a tracker's folder.

    Masks are those that were started on the first masks, where there are any. Targets without
    results are left out.
    """
    told = [sequence for sequence in video if sequence.name in answers]
    if form != "davis":
        for sequence in told:
            save_results(folder, form, sequence, answers[sequence.name], shift)
        return
    told = [sequence for sequence in told if sequence.masks]
    if told:
        best = from_masks or answers
        save_label_maps(folder, told, [best[sequence.name] for sequence in told])


def save_label_maps(
    folder: Path, sequences: Sequence[AnnotatedSequence], answers: Sequence[TrackedSequence]
) -> None:
    """Write the masks of all objects of one video as indexed pictures, named like its frames.

    A tracker of boxes fills its boxes. Where two objects overlap, the later one counts.
    """
    first = sequences[0]
    numbers = [sequence.object_number or 1 for sequence in sequences]
    if len(sequences) == 1 and numbers[0] == 255:
        numbers = [1]  # DAVIS 2016 marks its one object with 255
    found: list[Iterable[np.ndarray]] = [
        answer.masks or filled_boxes(answer.boxes, sequence)
        for sequence, answer in zip(sequences, answers, strict=True)
    ]
    for index, masks in enumerate(zip(*found, strict=True)):
        labels = np.zeros(masks[0].shape, np.uint8)
        for number, mask in zip(numbers, masks, strict=True):
            labels[mask] = number
        frame = first.frames[index]
        stem = frame.stem if isinstance(frame, Path) else f"{index:05d}"
        write_label_map(folder / (first.video or first.name) / f"{stem}.png", labels)


def _box_lines(boxes: np.ndarray) -> str:
    return "".join(",".join(f"{value:.3f}" for value in box) + "\n" for box in boxes)


def _number_lines(numbers: np.ndarray) -> str:
    return "".join(f"{number:.8f}\n" for number in numbers)

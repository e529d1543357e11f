# SPDX-License-Identifier: Apache-2.0
"""The worst stretches of runs as rows of pictures: the truth and what each run made of it."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from tracker_ros.evaluation.charts import COLOURS
from tracker_ros.evaluation.records import TRACKING, SequenceRecord
from tracker_ros.geometry import visible
from tracker_ros.io.sources import open_video, read_image
from tracker_ros.io.video_source import BadFrame

_WIDTH = 300
_WINDOW = 10
_PICTURES = 5
_JPEG_QUALITY = 80


@dataclass(frozen=True)
class Stretch:
    """Frames of a sequence in which a run is worse than another one, or just bad."""

    sequence: str
    worse: int  # number of the run
    first: int
    last: int
    # by how much the mean overlap is lower than the best other run's, or than 1. A frame without a
    # target counts as 1, and as 0 if the run claims to track it.
    loss: float


@dataclass(frozen=True)
class Picture:
    """A frame of a film strip."""

    frame: int
    data: str  # a JPEG, as the URL of its own data
    notes: tuple[str, ...]  # what each run says of it: score, state and overlap


def find_stretches(records: Sequence[dict[str, SequenceRecord]], count: int = 8) -> list[Stretch]:
    """Return the worst stretches, the worst first, one of each run in each sequence at most."""
    found = []
    for name in records[0]:
        given = [run.get(name) for run in records]
        for worse, record in enumerate(given):
            others = [o for i, o in enumerate(given) if o is not None and i != worse]
            if record is None or (len(records) > 1 and not others):
                continue
            best = np.max([np.nan_to_num(_quality(o)) for o in others], 0) if others else 1.0
            loss = np.nan_to_num(best - _quality(record))
            loss[:1] = 0.0
            window = min(_WINDOW, len(loss))
            means = np.convolve(loss, np.full(window, 1 / window), "valid")
            first = int(means.argmax())
            found.append(Stretch(name, worse, first, first + window - 1, float(means[first])))
    worst = sorted(found, key=lambda stretch: -stretch.loss)
    return [stretch for stretch in worst[:count] if stretch.loss > 0.05]


def _quality(record: SequenceRecord) -> np.ndarray:
    """Return (N,) how good a run is in each frame: its overlap with the target.

    Where there is none, 1, or 0 if the run claims to track it; NaN where the truth is not known.
    """
    claims = np.zeros(len(record.truth), bool)
    claims[: len(record.states)] = [state == TRACKING for state in record.states]
    absent = record.known & ~visible(record.truth)
    return np.where(absent, 1.0 - claims, record.overlaps)


def film_strip(stretch: Stretch, records: Sequence[SequenceRecord | None]) -> Iterator[Picture]:
    """Yield pictures of a stretch, with a margin before it; none if the images are not there.

    The truth is drawn white, the box of each run in its colour.
    """
    shown = next(record for record in records if record is not None)
    begin = max(stretch.first - _WINDOW // 2, 0)
    places = np.unique(np.linspace(begin, stretch.last, _PICTURES).round().astype(int))
    for place, image in _images(shown, places.tolist()):
        drawn, scale = image.copy(), _WIDTH / image.shape[1]
        line = max(round(2 / scale), 1)
        _draw(drawn, shown.truth[place], (255, 255, 255), line)
        notes = []
        for number, record in enumerate(records):
            if record is None:
                notes.append("no result")
                continue
            colour = COLOURS[number % len(COLOURS)].lstrip("#")
            _draw(drawn, record.boxes[place], tuple(bytes.fromhex(colour)), line)
            overlap = record.overlaps[place]
            parts = [f"{record.scores[place]:.2f}"]
            parts += [record.states[place].lower()] if record.states else []
            parts.append("no target" if np.isnan(overlap) else f"IoU {overlap:.2f}")
            notes.append(", ".join(parts))
        small = cv2.resize(
            drawn, (_WIDTH, round(image.shape[0] * scale)), interpolation=cv2.INTER_AREA
        )
        quality = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
        _, packed = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), quality)
        text = base64.b64encode(packed.tobytes()).decode()
        yield Picture(place, f"data:image/jpeg;base64,{text}", tuple(notes))


def _draw(image: np.ndarray, box: np.ndarray, colour: tuple[int, ...], line: int) -> None:
    if np.isfinite(box).all():
        x, y, w, h = (round(float(value)) for value in box)
        cv2.rectangle(image, (x, y), (x + w, y + h), colour, line, cv2.LINE_AA)


def _images(record: SequenceRecord, places: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
    """Yield some frames, RGB uint8 (H, W, 3); those that cannot be read are left out."""
    if len(record.images) == len(record.truth) > 1:
        for place in places:
            try:
                yield place, read_image(Path(record.images[place]))
            except (ValueError, OSError):
                continue
        return
    if len(record.images) != 1:
        return
    wanted = {record.first_image + place: place for place in places}
    try:
        with open_video(record.images[0]) as video:
            for number, (_, image) in enumerate(video.timed_frames()):
                if number in wanted and not isinstance(image, BadFrame):
                    yield wanted[number], image
                if number >= max(wanted):
                    return
    except (ValueError, OSError, ImportError):
        return

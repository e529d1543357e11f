# SPDX-License-Identifier: Apache-2.0
"""Read annotations of targets as benchmarks write them: one line for each frame.

| Line | Means |
| --- | --- |
| ``x,y,w,h`` | a box, pixels; commas, semicolons, tabs or spaces |
| six numbers or more, an even count | corners ``x1,y1,x2,y2,…`` of a polygon; its enclosing box |
| ``mX,Y,W,H,runs…`` | a mask (VOT 2020 and later): run lengths of 0 and 1 in turn, by rows |
| one number, ``nan``, an empty line, a box without size | no target in this frame |

Byte-order marks and line ends of any system are understood.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tracker_ros.geometry import tight_box, visible
from tracker_ros.masks import placed_mask

_ABSENT = (np.nan,) * 4


@dataclass(frozen=True)
class RunLengthMask:
    """A mask as its rectangle in the image and run lengths of 0 and 1 in turn, by rows."""

    left: int
    top: int
    width: int
    height: int
    runs: tuple[int, ...]

    def part(self) -> np.ndarray:
        """Return the mask within its rectangle, (height, width) bool."""
        values = np.arange(len(self.runs)) % 2 == 1
        pixels = np.zeros(self.width * self.height, bool)
        drawn = np.repeat(values, self.runs)[: pixels.size]
        pixels[: len(drawn)] = drawn
        return pixels.reshape(self.height, self.width)

    def on_image(self, height: int, width: int) -> np.ndarray:
        """Return the mask on an image of a size, (height, width) bool."""
        return placed_mask(self.part(), (self.left, self.top), height, width)

    @staticmethod
    def of(mask: np.ndarray) -> RunLengthMask:
        """Return a mask (H, W) bool in this form, its rectangle tight."""
        if not mask.any():
            return RunLengthMask(0, 0, 0, 0, (0,))
        left, top, width, height = (int(value) for value in tight_box(mask))
        pixels = mask[top : top + height, left : left + width].ravel()
        edges = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
        runs = np.diff([0, *edges.tolist(), pixels.size]).tolist()
        return RunLengthMask(left, top, width, height, (*([0] if pixels[0] else []), *runs))

    def line(self) -> str:
        """Return the line of text that stands for this mask in a VOT file."""
        numbers = (self.left, self.top, self.width, self.height, *self.runs)
        return "m" + ",".join(map(str, numbers))


@dataclass(frozen=True)
class Annotations:
    """What a file says of a target."""

    boxes: np.ndarray  # (N, 4) float64, x, y, w, h as in the file; NaN where there is no target
    # for each frame its mask, None where there is none; empty if no line is a mask
    masks: tuple[RunLengthMask | None, ...] = ()


def read_annotations(path: Path, frames: int | None = None) -> Annotations:
    """Read a file of annotations.

    Empty lines at its end count as frames without the target if the sequence has that many frames.
    Raises ValueError if there is no annotation, or a line is none; names file, line and content.
    """
    lines = [line.strip(" ,;\t") for line in read_text(path).splitlines()]
    filled = len(lines)
    while filled and not lines[filled - 1]:
        filled -= 1
    if filled == 0:
        raise ValueError(f"{path} is empty; expected one box per frame")
    kept = filled if frames is None else min(max(filled, frames), len(lines))
    boxes: list[tuple[float, ...]] = []
    masks: list[RunLengthMask | None] = []
    for number, line in enumerate(lines[:kept], start=1):
        try:
            box, mask = _annotation(line)
        except ValueError as error:
            raise ValueError(
                f"{path}:{number}: {line[:80]!r} is no annotation: {error}"
            ) from error
        boxes.append(box)
        masks.append(mask)
    array = np.array(boxes, dtype=np.float64)
    array[~visible(array)] = np.nan
    return Annotations(array, tuple(masks) if any(masks) else ())


def read_flags(path: Path) -> np.ndarray:
    """Return (N,) float64: the numbers in a file of labels, one for each frame.

    Raises ValueError, which names the file, if something else is in it.
    """
    parts = re.split(r"[,;\s]+", read_text(path).strip(" ,;\t\r\n"))
    try:
        return np.array([float(part) for part in parts if part])
    except ValueError as error:
        raise ValueError(f"{path} holds something else than numbers: {error}") from error


def read_text(path: Path) -> str:
    """Return the text of a file, without a byte-order mark; UTF-16 is recognised by its mark."""
    content = path.read_bytes()
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return content.decode("utf-16")
    return content.decode("utf-8-sig", errors="replace")


def _annotation(line: str) -> tuple[tuple[float, ...], RunLengthMask | None]:
    """Return box and mask that a line stands for; raises ValueError."""
    if not line:
        return _ABSENT, None
    if line[0] in "mM":
        return _mask(line[1:])
    values = [float(part) for part in re.split(r"[,;\s]+", line)]
    if len(values) == 4:
        return tuple(values), None
    if len(values) == 1 or (len(values) % 2 == 0 and np.isnan(values).any()):
        return _ABSENT, None
    if len(values) < 6 or len(values) % 2:
        raise ValueError(
            f"{len(values)} numbers; expected x, y, w, h or the corners x1, y1, x2, y2, …"
        )
    xs, ys = values[0::2], values[1::2]
    return (min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)), None


def _mask(text: str) -> tuple[tuple[float, ...], RunLengthMask | None]:
    """Return box and mask of a line after its ``m``; the box is tight around the mask."""
    left, top, width, height, *runs = (int(part) for part in re.split(r"[,;\s]+", text.strip()))
    if width < 0 or height < 0 or any(run < 0 for run in runs) or sum(runs) > width * height:
        raise ValueError(f"its runs of {sum(runs)} pixels do not fit {width} x {height}")
    mask = RunLengthMask(left, top, width, height, tuple(runs))
    part = mask.part()
    if not part.any():
        return _ABSENT, None
    x, y, w, h = tight_box(part)
    return (left + x, top + y, w, h), mask

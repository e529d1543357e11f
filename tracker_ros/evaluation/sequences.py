# SPDX-License-Identifier: Apache-2.0
"""Read annotated sequences from disk: frames, boxes and masks that fit together.

`layouts` finds the sequences of the usual benchmarks in their folders, `annotations` reads their
files. Frames without the target are those without a box (see there), and those that GOT-10k's
``absence.label`` and ``cover.label`` or LaSOT's ``full_occlusion.txt`` and ``out_of_view.txt``
mark. Where pixels are counted from 1, as in OTB's own archives, pass ``one_based``; nothing is
guessed.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tracker_ros.evaluation.annotations import RunLengthMask, read_annotations, read_flags
from tracker_ros.evaluation.attributes import read_attributes
from tracker_ros.evaluation.layouts import Location, locate_sequences
from tracker_ros.geometry import iou, tight_box
from tracker_ros.io.mask_files import read_label_map
from tracker_ros.io.sources import read_image, sort_images
from tracker_ros.masks import object_numbers

_LOG = logging.getLogger(__name__)

_FRAME_FOLDERS = ("img", "color", "imgs", "frames", ".")
SYNTHETIC_FRAMES = 120
"""Length of a built-in scene as a sequence."""
_SYNTHETIC_SIZE = (640, 480)
_ABSENCE_NAMES = ("absence.label", "full_occlusion.txt", "out_of_view.txt")
_COVER_NAME = "cover.label"


@dataclass(frozen=True)
class AnnotatedSequence:
    """Frames with one target's boxes."""

    name: str  # name of the sequence (its folder's name)
    # image files in order, or the images themselves, (H, W, 3) uint8 RGB
    frames: tuple[Path | np.ndarray, ...]
    # (N, 4) float64, x, y, w, h in pixels, 0-based; NaN where the target is absent
    boxes: np.ndarray
    # content of ``meta.json`` beside the boxes, e.g. dataset and licence
    about: dict[str, object] = field(default_factory=dict)
    # for each frame a picture of masks, the target's mask (H, W) bool, its run lengths, or None
    # without the target; empty if the sequence has no masks
    masks: tuple[Path | np.ndarray | RunLengthMask | None, ...] = ()
    # the target's label in those pictures; None if they show nothing else
    object_number: int | None = None
    video: str = ""  # name of the video, where several targets of it are sequences of their own

    def __len__(self) -> int:
        return len(self.frames)

    def images(self) -> Iterator[np.ndarray]:
        """Yield the frames, (H, W, 3) uint8 RGB."""
        return (self.image(index) for index in range(len(self)))

    def image(self, index: int) -> np.ndarray:
        """Return a frame, (H, W, 3) uint8 RGB; its file is read at each call."""
        frame = self.frames[index]
        return frame if isinstance(frame, np.ndarray) else read_image(frame)

    def mask(self, index: int) -> np.ndarray:
        """Return the target's mask in a frame, (H, W) bool; its file is read at each call."""
        mask = self.masks[index]
        if isinstance(mask, np.ndarray):
            return mask
        if isinstance(mask, Path):
            labels = read_label_map(mask)
            number = self.object_number
            return labels > 0 if number is None else labels == number
        height, width = self.image(index).shape[:2]
        return np.zeros((height, width), bool) if mask is None else mask.on_image(height, width)


def warn_of(text: str) -> None:
    """Log why a sequence is left out."""
    _LOG.warning("left out: %s", text)


def find_sequences(
    path: str | Path,
    *,
    one_based: bool = False,
    unannotated: bool = False,
    complain: Callable[[str], None] = warn_of,
) -> list[AnnotatedSequence]:
    """Read the sequence at a folder, or all sequences in it, in natural order of their folders.

    The path is one sequence's folder, the root of a data set or any folder between (see
    `layouts`), a text file that lists folders relative to itself (one per line, ``#`` for
    comments), or ``synthetic[:SEED]`` for the built-in scene. Pixel coordinates may be `one_based`
    (OTB, LaSOT, VOT archives). With `unannotated`, sequences with nothing but the first box (test
    splits) are read, too; the target then counts as absent in all other frames. `complain` is
    called with one line for each sequence that cannot be used; the others are read.

    Raises FileNotFoundError if there is nothing, ValueError if no sequence in it can be used.
    """
    if str(path) == "synthetic" or str(path).startswith("synthetic:"):
        return [_synthetic_sequence(str(path))]
    folder = Path(path)
    if not folder.exists():
        raise FileNotFoundError(
            f"no sequences at {str(path)!r}; give a folder of sequences, a list of such folders "
            "or synthetic[:SEED]"
        )
    places = locate_sequences(folder)
    if not places:
        raise ValueError(
            f"{str(path)!r} holds no annotated sequence; expected NAME/groundtruth.txt with "
            "frames in NAME/img, or one of the layouts in docs/evaluation.md"
        )
    found: list[AnnotatedSequence] = []
    faults: list[str] = []
    for place in places:
        try:
            found += _read(place, one_based, unannotated)
        except (ValueError, OSError) as error:
            faults.append(f"{place.name}: {error}")
    if not found:
        raise ValueError(
            faults[0]
            if len(faults) == 1
            else f"none of {len(faults)} sequences can be used; the first: {faults[0]}"
        )
    for fault in faults:
        complain(fault)
    return found


def _synthetic_sequence(name: str) -> AnnotatedSequence:
    """Draw the built-in scene; the target counts where a tenth of it or more is visible."""
    from tracker_ros.synthetic.scene_video import seed_of, synthetic_video

    scenes = list(synthetic_video(seed_of(name), SYNTHETIC_FRAMES, _SYNTHETIC_SIZE))
    boxes = np.array([scene.box for scene in scenes], dtype=np.float64)
    boxes[[scene.visibility < 0.1 for scene in scenes]] = np.nan
    return AnnotatedSequence(
        name.replace(":", "_"),
        tuple(scene.image for scene in scenes),
        boxes,
        {"dataset": "built-in synthetic scene", "licence": "Apache-2.0"},
        tuple(scene.mask for scene in scenes),
    )


def _read(place: Location, one_based: bool, unannotated: bool) -> list[AnnotatedSequence]:
    """Read what is at a place: one sequence, or one for each object of a folder of label maps."""
    if not place.frames.is_dir():
        raise ValueError(f"there are annotations, but no frames at {place.frames}")
    if place.truth.is_dir():
        return _read_label_maps(place)
    return [_read_sequence(place, one_based, unannotated)]


def _read_label_maps(place: Location) -> list[AnnotatedSequence]:
    """Read a video of DAVIS: the objects of its first label map, with boxes around them."""
    frames, files = _frames(place.frames), _pictures(place.truth)
    if len(frames) != len(files):
        raise ValueError(
            f"{place.frames} has {len(frames)} frames and {place.truth} {len(files)} label maps; "
            "they must be equally many"
        )
    maps = [read_label_map(file) for file in files]
    numbers = object_numbers(maps[0])
    if not numbers:
        raise ValueError(f"{files[0]} shows no object; nothing to start on")
    several = len(numbers) > 1
    sequences = []
    for number in numbers:
        boxes = np.full((len(maps), 4), np.nan)
        for index, labels in enumerate(maps):
            mask = labels == number
            if mask.any():
                boxes[index] = tight_box(mask)
        name = f"{place.name}.{number}" if several else place.name
        about: dict[str, object] = {"dataset": "DAVIS"}
        sequences.append(
            AnnotatedSequence(name, tuple(frames), boxes, about, tuple(files), number, place.name)
        )
    return sequences


def _read_sequence(place: Location, one_based: bool, unannotated: bool) -> AnnotatedSequence:
    """Read one sequence and check that frames and boxes fit together."""
    folder, truth = place.frames, place.truth
    frames = _frames(folder)
    annotations = read_annotations(truth, None if place.first_frame else len(frames))
    boxes = annotations.boxes
    if place.first_frame and len(boxes) != len(frames):
        frames = frames[place.first_frame - 1 :][: len(boxes)]
    if len(boxes) == 1 < len(frames) and unannotated:
        boxes = np.vstack([boxes, np.full((len(frames) - 1, 4), np.nan)])
    if len(boxes) == 1 < len(frames):
        raise ValueError(
            f"{truth} has one box for {len(frames)} frames: a test split without annotations "
            "cannot be scored here; write results for its evaluation server (--save)"
        )
    if len(boxes) != len(frames):
        raise ValueError(
            f"{folder} has {len(frames)} frames and {len(boxes)} boxes in {truth.name}; "
            "they must be equally many (cut the longer one, if its end is not annotated)"
        )
    if one_based:
        boxes[:, :2] -= 1.0
    boxes[_absent(truth.parent, len(boxes))] = np.nan
    if not np.isfinite(boxes[0]).all():
        raise ValueError(f"{truth}: the target is absent in the first frame; nothing to start on")
    about = {}
    if (folder / "meta.json").is_file():
        about = json.loads((folder / "meta.json").read_text(encoding="utf-8-sig"))
    if attributes := read_attributes(truth):
        about.setdefault("attributes", attributes)
    if annotations.masks:
        return AnnotatedSequence(place.name, tuple(frames), boxes, about, annotations.masks)
    masks = _pictures(folder / "masks")
    if masks and len(masks) != len(frames):
        raise ValueError(
            f"{folder} has {len(frames)} frames and {len(masks)} masks; expected one per frame, "
            "or no folder of masks"
        )
    number = _object_in_box(masks[0], boxes[0]) if masks else None
    return AnnotatedSequence(place.name, tuple(frames), boxes, about, tuple(masks), number)


def _absent(folder: Path, frames: int) -> np.ndarray:
    """Return (frames,) bool: the frames that files of labels mark as without the target."""
    absent = np.zeros(frames, bool)
    for name in (*_ABSENCE_NAMES, _COVER_NAME):
        if (folder / name).is_file():
            flags = read_flags(folder / name)
            if len(flags) != frames:
                raise ValueError(
                    f"{folder / name} has {len(flags)} flags for {frames} frames; "
                    "expected one per frame"
                )
            absent |= flags == 0 if name == _COVER_NAME else flags != 0
    return absent


def _object_in_box(mask: Path, box: np.ndarray) -> int | None:
    """Return the label of the object that fits a box best; None if there is only one."""
    labels = read_label_map(mask)
    numbers = object_numbers(labels)
    if len(numbers) < 2:
        return None
    return max(numbers, key=lambda number: iou(tight_box(labels == number), box.tolist()))


def _frames(folder: Path) -> list[Path]:
    """Return the image files of a sequence, in natural order."""
    for name in _FRAME_FOLDERS:
        files = _pictures(folder / name)
        if files:
            return files
    raise ValueError(f"{folder} has a ground truth but no images in img/, color/ or beside it")


def _pictures(folder: Path) -> list[Path]:
    """Return the images in a folder in natural order; none where there is no such folder."""
    return sort_images(folder.iterdir()) if folder.is_dir() else []

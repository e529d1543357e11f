# SPDX-License-Identifier: Apache-2.0
"""Read annotated sequences from disk, in the layouts of the usual benchmarks.

| Layout | Frames | Boxes |
| --- | --- | --- |
| plain, LaSOT | ``NAME/img/*`` | ``NAME/groundtruth.txt`` |
| OTB | ``NAME/img/*`` | ``NAME/groundtruth_rect.txt`` |
| VOT, GOT-10k | ``NAME/*.jpg`` or ``NAME/color/*`` | ``NAME/groundtruth.txt`` |
| TrackingNet | ``frames/NAME/*`` | ``anno/NAME.txt`` |

Boxes are one line per frame: x, y, w, h in pixels (commas, tabs or spaces), or the eight corner
coordinates of VOT's rotated boxes, of which the enclosing box is taken. GOT-10k's
``absence.label`` and LaSOT's ``full_occlusion.txt`` and ``out_of_view.txt`` mark frames without
the target. A folder ``masks`` beside the boxes has one picture per frame, above 0 on the target.
Where pixels are counted from 1, as in OTB's own archives, pass ``one_based``; nothing is guessed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tracker_ros.geometry import visible, xyxy_to_xywh
from tracker_ros.io.sources import natural_key, read_image, sort_images

GROUND_TRUTH_NAMES = ("groundtruth.txt", "groundtruth_rect.txt", "groundtruth_rect.1.txt")
_FRAME_FOLDERS = ("img", "color", "imgs", "frames", ".")
SYNTHETIC_FRAMES = 120
"""Length of a built-in scene as a sequence."""
_SYNTHETIC_SIZE = (640, 480)
_ABSENCE_NAMES = ("absence.label", "full_occlusion.txt", "out_of_view.txt")


@dataclass(frozen=True)
class AnnotatedSequence:
    """Frames with one target's boxes.

    Attributes:
        name: Name of the sequence (its folder's name).
        frames: Image files in order, or the images themselves, (H, W, 3) uint8 RGB.
        boxes: (N, 4) float64, x, y, w, h in pixels, 0-based; NaN where the target is absent.
        about: Content of ``meta.json`` beside the boxes, e.g. dataset and licence.
        masks: Pictures of the target's masks, one per frame, or the masks themselves, (H, W) bool;
            empty where there are none.
    """

    name: str
    frames: tuple[Path | np.ndarray, ...]
    boxes: np.ndarray
    about: dict[str, object] = field(default_factory=dict)
    masks: tuple[Path | np.ndarray, ...] = ()

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
        return mask if isinstance(mask, np.ndarray) else read_image(mask).max(axis=2) > 0


def find_sequences(path: str | Path, *, one_based: bool = False) -> list[AnnotatedSequence]:
    """Read the sequence at a folder, or all sequences in it.

    Args:
        path: One sequence's folder, a folder of such folders, a text file that lists folders
            relative to itself (one per line, ``#`` for comments), a TrackingNet folder with
            ``frames`` and ``anno``, or ``synthetic[:SEED]`` for the built-in scene.
        one_based: Whether pixel coordinates in the files start at 1 (OTB, LaSOT, VOT archives).

    Returns:
        The sequences, in natural order of their names.

    Raises:
        FileNotFoundError: The folder does not exist.
        ValueError: It holds no sequence, or one whose files do not fit together.
    """
    if str(path) == "synthetic" or str(path).startswith("synthetic:"):
        return [_synthetic_sequence(str(path))]
    folder = Path(path)
    if not folder.exists():
        raise FileNotFoundError(
            f"no sequences at {str(path)!r}; give a folder of sequences, a list of such folders "
            "or synthetic[:SEED]"
        )
    if folder.is_file():
        lines = [line.split("#")[0].strip() for line in folder.read_text().splitlines()]
        listed = [folder.parent / line for line in lines if line]
        return [found for entry in listed for found in find_sequences(entry, one_based=one_based)]
    if (folder / "anno").is_dir() and (folder / "frames").is_dir():
        annotations = sorted((folder / "anno").glob("*.txt"), key=lambda file: file.name)
        pairs = [(folder / "frames" / file.stem, file) for file in annotations]
    else:
        candidates = [folder, *sorted(folder.iterdir(), key=lambda entry: natural_key(entry.name))]
        pairs = [
            (entry, truth) for entry in candidates if (truth := _ground_truth(entry)) is not None
        ]
    if not pairs:
        raise ValueError(
            f"{str(path)!r} holds no annotated sequence; expected NAME/groundtruth.txt with "
            "frames in NAME/img, or one of the layouts in docs/accuracy.md"
        )
    return [_read_sequence(frames, truth, one_based) for frames, truth in pairs]


def read_boxes(path: Path) -> np.ndarray:
    """Read a ground-truth file: four or eight numbers per line; ``NaN`` entries mean absent.

    Returns (N, 4) float64, x, y, w, h as in the file; NaN where absent. Raises ValueError, which
    names file and line, if a line has another number of numbers.
    """
    rows = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            values = [float(part) for part in re.split(r"[,\s]+", line.strip(" ,\t\r"))]
        except ValueError as error:
            raise ValueError(f"{path}:{number}: {line!r} is not a box: {error}") from error
        if len(values) == 8:
            xs, ys = values[0::2], values[1::2]
            values = xyxy_to_xywh(np.array([min(xs), min(ys), max(xs), max(ys)])).tolist()
        if len(values) != 4:
            raise ValueError(
                f"{path}:{number}: {len(values)} numbers; expected x, y, w, h or eight corner "
                "coordinates"
            )
        rows.append(values)
    if not rows:
        raise ValueError(f"{path} is empty; expected one box per frame")
    boxes = np.array(rows, dtype=np.float64)
    boxes[~visible(boxes)] = np.nan
    return boxes


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


def _ground_truth(folder: Path) -> Path | None:
    """Return the ground-truth file directly in a folder, if there is one."""
    if not folder.is_dir():
        return None
    files = (folder / name for name in GROUND_TRUTH_NAMES)
    return next((file for file in files if file.is_file()), None)


def _read_sequence(folder: Path, truth: Path, one_based: bool) -> AnnotatedSequence:
    """Read one sequence and check that frames and boxes fit together."""
    frames = _frames(folder)
    boxes = read_boxes(truth)
    if len(boxes) == 1 < len(frames):
        raise ValueError(
            f"{truth} has one box for {len(frames)} frames: a test split without annotations "
            "cannot be scored here; use its evaluation server"
        )
    if len(boxes) != len(frames):
        raise ValueError(
            f"{folder} has {len(frames)} frames and {len(boxes)} boxes in {truth.name}; "
            "they must be equally many (cut the longer one, if its end is not annotated)"
        )
    absent = np.zeros(len(boxes), bool)
    for name in _ABSENCE_NAMES:
        if (folder / name).is_file():
            flags = re.split(r"[,\s]+", (folder / name).read_text().strip(" ,\n\r\t"))
            if len(flags) != len(boxes):
                raise ValueError(
                    f"{folder / name} has {len(flags)} flags for {len(boxes)} frames; "
                    "expected one per frame"
                )
            absent |= np.array([float(flag) != 0 for flag in flags])
    if one_based:
        boxes[:, :2] -= 1.0
    boxes[absent] = np.nan
    if not np.isfinite(boxes[0]).all():
        raise ValueError(f"{truth}: the target is absent in the first frame; nothing to start on")
    about = {}
    if (folder / "meta.json").is_file():
        about = json.loads((folder / "meta.json").read_text())
    masks = _pictures(folder / "masks")
    if masks and len(masks) != len(frames):
        raise ValueError(
            f"{folder} has {len(frames)} frames and {len(masks)} masks; expected one per frame, "
            "or no folder of masks"
        )
    return AnnotatedSequence(folder.name, tuple(frames), boxes, about, tuple(masks))


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

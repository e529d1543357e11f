# SPDX-License-Identifier: Apache-2.0
"""Read the usual training sets, and draw training pairs from their annotated sequences.

| kind | path | splits |
| --- | --- | --- |
| got10k | folder with ``train/`` and ``val/`` (or one of them) | train, val |
| lasot | folder with ``CATEGORY/CATEGORY-N/img`` and ``groundtruth.txt`` | train, val |
| trackingnet | folder with ``TRAIN_0`` … ``TRAIN_11``, each ``frames`` and ``anno`` | train, val |
| coco | folder with ``annotations/instances_SPLIT2017.json`` and ``SPLIT2017/`` | train, val |

Annotations are read at the start, frames when they are drawn. COCO's pictures become sequences of
one frame per object: both crops of a pair then come from the same picture.

Sampling and jitter follow OSTrack's training (`lib/train/data/sampler.py`, `processing.py`, MIT):
template and search frame up to a fixed gap apart, the search crop around a jittered box.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from tracker_ros.crops import box_in_crop, crop_region, crop_square
from tracker_ros.evaluation.sequences import AnnotatedSequence, find_sequences
from tracker_ros.geometry import Box, xywh_to_cxcywh
from tracker_ros.synthetic.crops import PairConfig
from tracker_ros.synthetic.photometric import GREY_WEIGHTS
from tracker_ros.synthetic.samples import PairBatch

MIN_COCO_SIDE = 16.0
HELD_OUT_EVERY = 50
"""Every so many sequences of a set that has no validation split validate."""
MAX_GAP = 200
"""Maximum distance of template and search frame, frames."""
CENTRE_JITTER, SCALE_JITTER = 3.0, 0.25
BRIGHTNESS = 0.2


def open_dataset(kind: str, path: str, split: str) -> list[AnnotatedSequence]:
    """List the sequences of a training set, of a kind in the table above, in a root folder.

    The split is "train" or "val". Raises ValueError if kind or split is unknown, FileNotFoundError
    if there is no such folder, or no sequences in it.
    """
    if kind not in _READERS:
        known = ", ".join(("synthetic", *_READERS))
        raise ValueError(f"source kind {kind!r} is unknown; expected one of {known}")
    if split not in ("train", "val"):
        raise ValueError(f"split {split!r} of source kind {kind!r}: expected 'train' or 'val'")
    root = Path(path).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"{kind}: no folder {str(root)!r}; set the source's path")
    found = [s for s in _READERS[kind](root, split) if np.isfinite(s.boxes).all(1).any()]
    if not found:
        raise FileNotFoundError(f"{kind}: no {split} sequences under {str(root)!r}")
    return found


def _share(sequences: list[AnnotatedSequence], split: str) -> list[AnnotatedSequence]:
    """Divide a set that has no validation split."""
    held_out = sequences[::HELD_OUT_EVERY]
    if split == "val":
        return held_out
    return [s for i, s in enumerate(sequences) if i % HELD_OUT_EVERY] or held_out


def _got10k(root: Path, split: str) -> list[AnnotatedSequence]:
    folder = root / split
    if folder.is_dir():
        return find_sequences(folder)
    return _share(find_sequences(root), split)


def _lasot(root: Path, split: str) -> list[AnnotatedSequence]:
    categories = sorted(entry for entry in root.iterdir() if entry.is_dir())
    return _share([s for c in categories for s in find_sequences(c, one_based=True)], split)


def _trackingnet(root: Path, split: str) -> list[AnnotatedSequence]:
    parts = sorted(root.glob("TRAIN_*")) or [root]
    return _share([s for part in parts for s in find_sequences(part)], split)


def _coco(root: Path, split: str) -> list[AnnotatedSequence]:
    file = root / "annotations" / f"instances_{split}2017.json"
    if not file.is_file():
        raise FileNotFoundError(f"coco: no annotations at {str(file)!r}")
    content = json.loads(file.read_text(encoding="utf-8"))
    names = {image["id"]: image["file_name"] for image in content["images"]}
    sequences = []
    for entry in content["annotations"]:
        box = np.array([entry["bbox"]], dtype=np.float64)
        if entry.get("iscrowd") or box[0, 2:].min() < MIN_COCO_SIDE:
            continue
        frame = root / f"{split}2017" / names[entry["image_id"]]
        sequences.append(AnnotatedSequence(f"{frame.stem}_{entry['id']}", (frame,), box))
    return sequences


_READERS: dict[str, Callable[[Path, str], list[AnnotatedSequence]]] = {
    "got10k": _got10k,
    "lasot": _lasot,
    "trackingnet": _trackingnet,
    "coco": _coco,
}


class SequencePairs:
    """Draw pairs from sequences; the same seed gives the same pairs.

    Sizes and factors are those of `PairGenerator`; of the configuration the grey and absent
    fractions are used.
    """

    def __init__(
        self,
        sequences: Sequence[AnnotatedSequence],
        template_size: int,
        search_size: int,
        template_factor: float,
        search_factor: float,
        config: PairConfig,
    ) -> None:
        self.sequences, self.config = sequences, config
        self.template = (template_factor, template_size)
        self.search = (search_factor, search_size)

    def batch(self, size: int, seed: int) -> PairBatch:
        """Draw ``size`` pairs."""
        rng = np.random.default_rng(seed)
        pairs = [self._pair(rng) for _ in range(size)]
        template, template_boxes, search, boxes, present = zip(*pairs, strict=True)
        return PairBatch(
            _to_tensor(np.stack(template)),
            torch.tensor(np.array(template_boxes), dtype=torch.float32),
            _to_tensor(np.stack(search)),
            torch.tensor(np.array(boxes), dtype=torch.float32),
            torch.tensor(present),
        )

    def _pair(
        self, rng: np.random.Generator
    ) -> tuple[np.ndarray, Box, np.ndarray, list[float], bool]:
        """Draw template, the target's box in it, search crop, the box there, and presence."""
        sequence = self.sequences[int(rng.integers(len(self.sequences)))]
        shown = np.isfinite(sequence.boxes).all(1)
        first = int(rng.choice(np.where(shown)[0]))
        near = np.abs(np.arange(len(sequence)) - first) <= MAX_GAP
        hidden = np.where(near & ~shown)[0]
        present = not (len(hidden) and rng.random() < self.config.absent_fraction)
        second = int(rng.choice(np.where(near & shown)[0] if present else hidden))
        box = sequence.boxes[first]
        template, zoom = crop_square(sequence.image(first), tuple(box), *self.template)
        template_box = box_in_crop(box, box, zoom, self.template[1])
        # An absent target is searched for where it was last seen.
        truth = sequence.boxes[second] if present else box
        around = self._jittered(truth, rng)
        factor, size = self.search
        search, scale = crop_square(sequence.image(second), around, factor, size)
        region = crop_region(around, factor)
        origin = (region.left, region.top, 0.0, 0.0)
        place = [(edge - start) * scale / size for edge, start in zip(truth, origin, strict=True)]
        centre = xywh_to_cxcywh(np.array(place))[:2]
        inside = bool(((centre > 0) & (centre < 1)).all())
        template, search, place = self._vary(template, search, place, rng)
        return template, template_box, search, place, present and inside

    def _jittered(self, box: np.ndarray, rng: np.random.Generator) -> Box:
        """Draw a box as a tracker might have it: of another size, beside the truth."""
        width, height = box[2:] * np.exp(rng.normal(0, SCALE_JITTER, 2))
        reach = math.sqrt(width * height) * CENTRE_JITTER / 2
        x, y = xywh_to_cxcywh(box)[:2] + rng.uniform(-reach, reach, 2)
        return (float(x - width / 2), float(y - height / 2), float(width), float(height))

    def _vary(
        self, template: np.ndarray, search: np.ndarray, box: list[float], rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, list[float]]:
        """Vary grey and mirror, which both crops share, and brightness."""
        if rng.random() < self.config.photometric.grey_fraction:
            weights = np.array(GREY_WEIGHTS)
            template, search = (
                np.repeat((crop @ weights)[..., None], 3, 2) for crop in (template, search)
            )
        if rng.random() < 0.5:
            template, search = template[:, ::-1], search[:, ::-1]
            box = [1 - box[0] - box[2], *box[1:]]
        crops = [
            np.clip(crop * rng.uniform(1 - BRIGHTNESS, 1 + BRIGHTNESS), 0, 255)
            for crop in (template, search)
        ]
        return crops[0], crops[1], box


def _to_tensor(crops: np.ndarray) -> torch.Tensor:
    """Turn (B, S, S, 3) in [0, 255] into (B, 3, S, S) float32 in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(crops.transpose(0, 3, 1, 2))).float() / 255

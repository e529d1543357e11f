# SPDX-License-Identifier: Apache-2.0
"""The usual training sets, as lists of annotated sequences.

| kind | path | splits |
| --- | --- | --- |
| got10k | folder with ``train/`` and ``val/`` (or one of them) | train, val |
| lasot | folder with ``CATEGORY/CATEGORY-N/img`` and ``groundtruth.txt`` | train, val |
| trackingnet | folder with ``TRAIN_0`` … ``TRAIN_11``, each ``frames`` and ``anno`` | train, val |
| coco | folder with ``annotations/instances_SPLIT2017.json`` and ``SPLIT2017/`` | train, val |

Annotations are read at the start, frames when they are drawn. COCO's pictures become sequences of
one frame per object: both crops of a pair then come from the same picture.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tracker_ros.evaluation.sequences import AnnotatedSequence, find_sequences

SMALLEST_COCO_SIDE = 16.0
HELD_OUT_EVERY = 50
"""Without a validation split of its own, every so many sequences validate."""


def open_dataset(kind: str, path: str, split: str) -> list[AnnotatedSequence]:
    """Index a training set.

    Args:
        kind: One of the table above.
        path: Its root folder; ``~`` is expanded.
        split: "train" or "val".

    Raises:
        ValueError: unknown kind or split.
        FileNotFoundError: no such folder, or no sequences in it.
    """
    if kind not in _READERS:
        raise ValueError(f"data set kind {kind!r}: expected one of {', '.join(_READERS)}")
    if split not in ("train", "val"):
        raise ValueError(f"split {split!r}: expected 'train' or 'val'")
    root = Path(path).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"{kind}: no folder {str(root)!r}; set the source's path")
    found = [s for s in _READERS[kind](root, split) if np.isfinite(s.boxes).all(1).any()]
    if not found:
        raise FileNotFoundError(f"{kind}: no {split} sequences under {str(root)!r}")
    return found


def _share(sequences: list[AnnotatedSequence], split: str) -> list[AnnotatedSequence]:
    """Divide a set that has no validation split of its own."""
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
    sequences = [
        sequence
        for category in categories
        for sequence in find_sequences(category, one_based=True)
    ]
    return _share(sequences, split)


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
        if entry.get("iscrowd") or box[0, 2:].min() < SMALLEST_COCO_SIDE:
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

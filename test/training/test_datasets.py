# SPDX-License-Identifier: Apache-2.0
"""Training sets on disk: their layouts, and pairs drawn from them."""

import json

import cv2
import numpy as np
import pytest
import torch

from tracker_ros.synthetic.crops import PairConfig
from tracker_ros.synthetic.photometric import PhotometricConfig
from tracker_ros.training.datasets import SequencePairs, open_dataset

FRAMES = 4
BOX = (40, 30, 24, 18)


def write_frames(folder, offset=0):
    """Frames of grey noise with a red box that moves 5 px a frame; returns the boxes."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    boxes = []
    for index in range(FRAMES):
        image = np.repeat(rng.integers(60, 120, (120, 160, 1), dtype=np.uint8), 3, 2)
        x, y, w, h = BOX[0] + 5 * index, *BOX[1:]
        image[y : y + h, x : x + w] = (0, 0, 255)  # BGR
        cv2.imwrite(str(folder / f"{index:08d}.png"), image)
        boxes.append((x + offset, y + offset, w, h))
    return "\n".join(",".join(map(str, box)) for box in boxes) + "\n"


@pytest.fixture
def got10k(tmp_path):
    """Two training sequences and one for validation."""
    for name in ("train/GOT-10k_Train_000001", "train/GOT-10k_Train_000002", "val/GOT-10k_Val_1"):
        truth = write_frames(tmp_path / name)
        (tmp_path / name / "groundtruth.txt").write_text(truth)
    return tmp_path


def test_got10k(got10k):
    train = open_dataset("got10k", str(got10k), "train")
    assert [s.name for s in train] == ["GOT-10k_Train_000001", "GOT-10k_Train_000002"]
    assert len(open_dataset("got10k", str(got10k), "val")) == 1
    assert train[0].boxes[1].tolist() == [45, 30, 24, 18]


def test_lasot_counts_pixels_from_one(tmp_path):
    folder = tmp_path / "cat" / "cat-1"
    truth = write_frames(folder / "img", offset=1)
    (folder / "groundtruth.txt").write_text(truth)
    (sequence,) = open_dataset("lasot", str(tmp_path), "train")
    assert sequence.boxes[0].tolist() == list(BOX)


def test_trackingnet(tmp_path):
    truth = write_frames(tmp_path / "TRAIN_0" / "frames" / "abc")
    (tmp_path / "TRAIN_0" / "anno").mkdir()
    (tmp_path / "TRAIN_0" / "anno" / "abc.txt").write_text(truth)
    (sequence,) = open_dataset("trackingnet", str(tmp_path), "train")
    assert len(sequence) == FRAMES


def test_coco_skips_crowds_and_specks(tmp_path):
    write_frames(tmp_path / "train2017")
    entries = [
        {"id": 1, "image_id": 7, "bbox": list(BOX), "iscrowd": 0},
        {"id": 2, "image_id": 7, "bbox": [0, 0, 50, 50], "iscrowd": 1},
        {"id": 3, "image_id": 7, "bbox": [0, 0, 50, 4], "iscrowd": 0},
    ]
    content = {"images": [{"id": 7, "file_name": "00000000.png"}], "annotations": entries}
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_train2017.json").write_text(json.dumps(content))
    (sequence,) = open_dataset("coco", str(tmp_path), "train")
    assert sequence.boxes.tolist() == [list(BOX)]


@pytest.mark.parametrize(
    ("kind", "split", "error", "message"),
    [
        (
            "imagenet",
            "train",
            ValueError,
            "'imagenet' is unknown.*synthetic, got10k",
        ),
        ("got10k", "test", ValueError, "'train' or 'val'"),
        ("coco", "train", FileNotFoundError, "instances_train2017.json"),
    ],
)
def test_mistakes_are_named(tmp_path, kind, split, error, message):
    with pytest.raises(error, match=message):
        open_dataset(kind, str(tmp_path), split)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        open_dataset("got10k", str(tmp_path / "nowhere"), "train")


def test_pairs_show_the_annotated_box(got10k):
    sequences = open_dataset("got10k", str(got10k), "train")
    config = PairConfig(photometric=PhotometricConfig(grey_fraction=0.0))
    pairs = SequencePairs(sequences, 64, 128, 2.0, 4.0, config)
    batch, again = pairs.batch(12, 3), pairs.batch(12, 3)
    assert torch.equal(batch.search, again.search)
    red = (batch.search[:, 0] > 0.6) & (batch.search[:, 1] < 0.2)
    checked = 0
    for i in torch.where(batch.present)[0].tolist():
        rows, columns = torch.where(red[i])
        x, y, w, h = (batch.boxes[i] * 128).tolist()
        if x < 2 or y < 2 or x + w > 126 or y + h > 126 or not len(rows):
            continue
        assert abs(columns.min().item() - x) < 3
        assert abs(columns.max().item() + 1 - x - w) < 3
        assert abs(rows.min().item() - y) < 3
        assert abs(rows.max().item() + 1 - y - h) < 3
        checked += 1
    assert checked >= 4
    middle = batch.template[:, 0, 30:34, 30:34]
    assert middle.min() > 0.6  # the target is in the middle of every template

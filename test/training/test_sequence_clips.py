# SPDX-License-Identifier: Apache-2.0
"""Clips drawn from data sets on disk, and training of TrDiMP on them."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from tracker_ros.synthetic.crops import PairConfig
from tracker_ros.synthetic.photometric import PhotometricConfig
from tracker_ros.synthetic.samples import ClipConfig
from tracker_ros.training.recipe import Source
from tracker_ros.training.sequence_clips import MAX_GAP, draw_frames
from tracker_ros.training.tasks import open_task
from tracker_ros.training.tasks.clip import ClipTask

from .conftest import CPU, RECIPES
from .test_datasets import BOX, write_frames

COLOURFUL = PairConfig(photometric=PhotometricConfig(grey_fraction=0.0))
RECIPE = replace(
    RECIPES["clips"], clips=ClipConfig(3, 3, 1.5, 0.25, 2.75, 0.5), pairs=COLOURFUL, proposals=16
)


def write_got10k(root):
    folder = root / "train" / "GOT-10k_Train_000001"
    (folder.parent).mkdir(exist_ok=True)
    truth = write_frames(folder)
    (folder / "groundtruth.txt").write_text(truth)


def write_lasot(root):
    truth = write_frames(root / "cat" / "cat-1" / "img", offset=1)
    (root / "cat" / "cat-1" / "groundtruth.txt").write_text(truth)


def write_trackingnet(root):
    truth = write_frames(root / "TRAIN_0" / "frames" / "abc")
    (root / "TRAIN_0" / "anno").mkdir()
    (root / "TRAIN_0" / "anno" / "abc.txt").write_text(truth)


def write_coco(root):
    write_frames(root / "train2017")
    entry = {"id": 1, "image_id": 7, "bbox": list(BOX), "iscrowd": 0}
    content = {"images": [{"id": 7, "file_name": "00000000.png"}], "annotations": [entry]}
    (root / "annotations").mkdir()
    (root / "annotations" / "instances_train2017.json").write_text(json.dumps(content))


LAYOUTS = {
    "got10k": write_got10k,
    "lasot": write_lasot,
    "trackingnet": write_trackingnet,
    "coco": write_coco,
}


@pytest.fixture
def source(request, tmp_path):
    LAYOUTS[request.param](tmp_path)
    return Source(kind=request.param, path=str(tmp_path))


@pytest.mark.parametrize("source", LAYOUTS, indirect=True)
def test_clips_show_the_annotated_box(source):
    drawn = ClipTask.open_source(source, RECIPE, CPU)
    clips, again = drawn.batch(4, 3), drawn.batch(4, 3)
    assert torch.equal(clips.images, again.images)
    assert torch.equal(clips.boxes, again.boxes)
    assert clips.images.shape == (4, 6, 3, 96, 96)
    assert clips.train_crops == 3
    checked = 0
    for image, box, present in zip(
        clips.images.flatten(0, 1), clips.boxes.flatten(0, 1), clips.present.flatten(), strict=True
    ):
        x, y, w, h = box.tolist()
        if not present or min(x, y) < 2 or max(x + w, y + h) > 94 or min(w, h) < 4:
            continue
        rows, columns = torch.where((image[0] > 0.5) & (image[1] < 0.3))
        # In cells of the patch, whose first is half a pixel off the box's corner.
        assert abs(columns.min() - x) < 2.5
        assert abs(columns.max() + 1 - x - w) < 2.5
        assert abs(rows.min() - y) < 2.5
        assert abs(rows.max() + 1 - y - h) < 2.5
        checked += 1
    assert checked >= 8


def test_later_crops_come_later_within_the_gap():
    rng = np.random.default_rng(0)
    shown = np.arange(3000)
    for _ in range(50):
        first, *others = draw_frames(shown, 3, 3, rng)
        assert all(first - MAX_GAP <= frame < first for frame in others[:2])
        assert all(first < frame <= first + MAX_GAP for frame in others[2:])


def test_a_target_that_is_seldom_shown_is_looked_for_further_away():
    rng = np.random.default_rng(0)
    assert set(draw_frames(np.array([0, 5000]), 2, 2, rng)) <= {0, 5000}
    assert draw_frames(np.array([7]), 3, 3, rng) == [7] * 6


@pytest.mark.parametrize("source", ["got10k"], indirect=True)
@pytest.mark.parametrize("box_loss", ["overlap", "density"])
def test_a_few_steps_on_real_clips_lower_both_losses(source, box_loss):
    torch.manual_seed(0)
    task = open_task(replace(RECIPE, box_loss=box_loss))
    batch = task.open_source(source, RECIPE, CPU).batch(3, 1)
    optimiser = torch.optim.AdamW(task.groups(), 2e-3)
    found = []
    for _ in range(10):
        torch.manual_seed(5)  # the same proposals
        losses = task(batch, 0)
        optimiser.zero_grad()
        losses["total"].backward()
        optimiser.step()
        found.append((losses["classifier"].item(), losses["iou_branch"].item()))
    assert np.isfinite(found).all()
    assert found[-1][0] < 0.8 * found[0][0]
    assert found[-1][1] < found[0][1] - (0.3 if box_loss == "density" else 0.02)


def test_frozen_layers_keep_weights_and_statistics(tmp_path):
    write_got10k(tmp_path)
    recipe = replace(RECIPE, frozen_layers=("conv1", "bn1", "layer1"))
    task = open_task(recipe)
    batch = task.open_source(Source("got10k", 1.0, str(tmp_path)), recipe, CPU).batch(2, 1)
    before = {key: value.clone() for key, value in task.network.state_dict().items()}
    optimiser = torch.optim.AdamW(task.groups(), 1e-2)
    task.train()
    task(batch, 0)["total"].backward()
    optimiser.step()
    frozen = tuple(f"feature_extractor.{name}." for name in recipe.frozen_layers)
    for key, value in task.network.state_dict().items():
        if key.startswith(frozen):
            assert torch.equal(value, before[key]), key
    moved = task.network.state_dict()["feature_extractor.layer2.0.bn1.running_mean"]
    assert not torch.equal(moved, before["feature_extractor.layer2.0.bn1.running_mean"])


def test_a_layer_that_the_backbone_lacks_is_named():
    with pytest.raises(ValueError, match="'layer9'; the backbone of trdimp_micro has conv1, bn1"):
        open_task(replace(RECIPE, frozen_layers=("layer9",)))


def test_absent_frames_are_left_out(tmp_path):
    write_got10k(tmp_path)
    folder = tmp_path / "train" / "GOT-10k_Train_000001"
    (folder / "absence.label").write_text("0\n1\n1\n0\n")
    cv2.imwrite(str(folder / "00000001.png"), np.zeros((120, 160, 3), np.uint8))
    cv2.imwrite(str(folder / "00000002.png"), np.zeros((120, 160, 3), np.uint8))
    clips = ClipTask.open_source(Source("got10k", 1.0, str(tmp_path)), RECIPE, CPU).batch(6, 2)
    assert (clips.images.flatten(2).amax(2) > 0.2).all()

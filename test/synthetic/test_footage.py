# SPDX-License-Identifier: Apache-2.0
"""Footage: cut into scenes, kept in a file, drawn as runs."""

import numpy as np
import pytest
import torch

from tracker_ros.synthetic.footage import HEIGHT, Footage, FootageRuns
from tracker_ros.synthetic.moving_scenes import FrameConfig
from tracker_ros.synthetic.scene_video import synthetic_video

from .conftest import NO_CHANGE

SIDE = 64


@pytest.fixture(scope="module")
def clip():
    """Two scenes of eight frames and one of three, one after another."""
    return [
        frame.image
        for seed, frames in ((1, 8), (2, 8), (3, 3))
        for frame in synthetic_video(seed, frames, (100, 80))
    ]


@pytest.fixture(scope="module")
def footage(clip):
    """Its scenes."""
    return Footage.cut(clip)


def test_a_clip_is_cut_where_its_scene_changes(footage):
    assert [len(scene) for scene in footage.scenes] == [8, 8]
    assert all(scene.shape[1:] == (HEIGHT, 320, 3) for scene in footage.scenes)


def test_a_file_gives_the_scenes_back_nearly_as_they_were(footage, tmp_path):
    footage.save(tmp_path / "clips.npz")
    again = Footage.load(tmp_path / "clips.npz")
    assert [scene.shape for scene in again.scenes] == [scene.shape for scene in footage.scenes]
    for before, after in zip(footage.scenes, again.scenes, strict=True):
        assert np.abs(before.astype(float) - after).mean() < 6
        # Red, green and blue in this order.
        assert np.abs(before.mean((0, 1, 2)) - after.mean((0, 1, 2))).max() < 3


def test_other_and_damaged_files_are_named(footage, tmp_path):
    np.savez(tmp_path / "other.npz", tiles=np.zeros(3))
    with pytest.raises(ValueError, match=r"other\.npz .* pictures, bytes, frames"):
        Footage.load(tmp_path / "other.npz")
    footage.save(tmp_path / "clips.npz")
    with np.load(tmp_path / "clips.npz") as file:
        arrays = {name: file[name] for name in file.files}
    arrays["pictures"][:20] = 0
    np.savez(tmp_path / "clips.npz", **arrays)
    with pytest.raises(ValueError, match="1 of 16 pictures are damaged"):
        Footage.load(tmp_path / "clips.npz")


def test_a_run_stays_in_one_scene_and_repeats_for_its_seed():
    shades = [np.full((10, 80, 100, 3), 40 + 60 * i, np.uint8) for i in range(3)]
    config = FrameConfig(size=SIDE, light=0.0)
    runs = FootageRuns(shades, "cpu", config)
    batch = runs.batch(16, 7)
    assert batch.images.shape == (16, 4, 3, SIDE, SIDE)
    assert batch.labels is None
    assert torch.equal(batch.images, runs.batch(16, 7).images)
    level = batch.images.mean((2, 3, 4)) * 255
    assert (level - level[:, :1]).abs().max() < 30  # scenes are 60 apart, light flickers
    assert len((level[:, 0] / 60).round().unique()) == 3


def test_frames_of_a_run_are_in_order_forwards_or_backwards():
    ramp = np.arange(0, 240, 12, dtype=np.uint8)[:, None, None, None]
    scene = np.broadcast_to(ramp, (20, 80, 80, 3)).copy()
    scene[:, :, :40] = 0  # left and right can be told apart
    config = FrameConfig(size=SIDE, light=0.0, frames=3, photometric=NO_CHANGE)
    squares = FootageRuns([scene], "cpu", config).batch(24, 0).images
    level = squares.amax((2, 3, 4)) * 255
    steps = level.diff(dim=1) / 12
    assert torch.allclose(steps[:, 0], steps[:, 1], atol=0.01)
    assert set(steps[:, 0].round().int().tolist()) == {-4, -3, -2, -1, 1, 2, 3, 4}
    dark_side = squares[:, :, :, :, 0].amax((1, 2, 3)) < 0.001
    assert 0 < dark_side.sum() < 24


def test_too_short_scenes_are_refused():
    with pytest.raises(ValueError, match="1 scenes; expected some, each of at least 4 frames"):
        FootageRuns([np.zeros((3, 64, 64, 3), np.uint8)], "cpu", FrameConfig())

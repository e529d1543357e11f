# SPDX-License-Identifier: Apache-2.0
"""Folders of videos and frames, and MAST's training on them."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tracker_ros.io.writer import VideoWriter
from tracker_ros.synthetic.moving_scenes import FrameConfig
from tracker_ros.training.recipe import Recipe, Source
from tracker_ros.training.tasks import open_task
from tracker_ros.training.tasks.reconstruction import ReconstructionTask, reconstruct
from tracker_ros.training.videos import find_videos

from .conftest import CPU, RECIPES

FRAMES = 12
CONFIG = FrameConfig(frames=4, size=64)


def frame(number: int) -> np.ndarray:
    """A picture whose brightness tells its number, with a texture that moves."""
    rng = np.random.default_rng(7)
    texture = rng.integers(0, 120, (40, 60, 3), dtype=np.uint8).repeat(3, 0).repeat(3, 1)
    image = np.roll(texture, 2 * number, axis=1)
    image[:8] = 20 * number
    return image


@pytest.fixture
def folder(tmp_path):
    """A folder of frames, one video file, and things that are neither."""
    frames = tmp_path / "JPEGImages" / "bear"
    frames.mkdir(parents=True)
    for number in range(FRAMES):
        cv2.imwrite(str(frames / f"{number:05d}.png"), frame(number)[..., ::-1])
    with VideoWriter(tmp_path / "clip.mp4", 10.0, (180, 120)) as writer:
        for number in range(FRAMES):
            writer.write(frame(number), number / 10)
    (tmp_path / "notes.txt").write_text("no video")
    (tmp_path / "JPEGImages" / "short").mkdir()
    cv2.imwrite(str(tmp_path / "JPEGImages" / "short" / "0.png"), frame(0))
    return tmp_path


def test_videos_and_folders_of_frames_are_found(folder):
    found = find_videos(str(folder), CONFIG)
    assert [len(video) for video in found] == [FRAMES, FRAMES]
    for video in found:
        frames = video[[2, 5, 3]]
        assert frames.shape == (3, 256, 384, 3)
        # The bar at the top tells the number.
        bar = frames[:, :8].float().mean((1, 2, 3)) / 20
        assert bar.round().tolist() == [2, 5, 3]


def test_a_folder_without_videos_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        find_videos(str(tmp_path / "nowhere"), CONFIG)
    with pytest.raises(FileNotFoundError, match="at least 4 frames"):
        find_videos(str(tmp_path), CONFIG)


def recipe(folder, **changes) -> Recipe:
    frames = replace(RECIPES["runs"].frames, far_gap=6)
    sources = (Source(), Source("videos", 1.0, str(folder)))
    return replace(RECIPES["runs"], frames=frames, sources=sources, dynamic_from=3, **changes)


def test_the_first_frame_of_a_run_lies_far_back(folder):
    opened = ReconstructionTask.open_source(
        Source("videos", 1.0, str(folder)), recipe(folder), CPU
    )
    asked = []

    class Noted:
        def __init__(self, video):
            self.video = video

        def __len__(self):
            return len(self.video)

        def __getitem__(self, numbers):
            asked.append(numbers)
            return self.video[numbers]

    opened.scenes = [Noted(video) for video in opened.scenes]
    first, again = opened.batch(4, 3), opened.batch(4, 3)
    assert torch.equal(first.images, again.images)
    assert first.images.shape == (4, 4, 3, 64, 64)
    for far, *others in asked:
        assert far == max(0, others[0] - 6)
        steps = set(np.diff(others))
        assert len(steps) == 1
        assert 1 <= min(steps) <= 4


@pytest.mark.parametrize("step", [0, 2, 3], ids=["one reference", "several", "dynamic"])
def test_every_stage_learns_from_a_folder_of_videos(folder, step):
    torch.manual_seed(0)
    task = open_task(recipe(folder))
    batch = task.open_source(Source("videos", 1.0, str(folder)), task.recipe, CPU).batch(2, 1)
    optimiser = torch.optim.AdamW(task.groups(), 5e-3)
    found = []
    for _ in range(8):
        torch.manual_seed(5)  # the same channel
        loss = task(batch, step)["total"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        found.append(loss.item())
    assert np.isfinite(found).all()
    assert found[-1] < 0.95 * found[0]


def test_the_dynamic_stage_finds_what_has_left_the_window():
    """A colour that moved by more than the radius is copied only if the window follows it."""

    class Patches(torch.nn.Module):
        config = replace(open_task(RECIPES["runs"]).network.config, radius_training=2)

        def forward(self, image):
            cells = image[..., ::4, ::4]
            around = F.unfold(cells, 3, padding=1).unflatten(2, cells.shape[2:])
            return 40 * F.normalize(around, dim=1)

    torch.manual_seed(3)
    before = torch.randn(1, 3, 24, 24).repeat_interleave(4, 2).repeat_interleave(4, 3)
    after = before.roll(16, 3)  # four cells
    near = torch.zeros_like(before)

    def error(far_gap: int) -> float:
        found = reconstruct(Patches(), [before, near], after, 1, far_gap=far_gap)
        wanted = after[:, 1:2, ::4, ::4]
        return float((found - wanted)[..., 6:-6].abs().mean())

    assert error(60) < 0.6 * error(0)


def test_the_dynamic_stage_needs_a_far_frame():
    with pytest.raises(ValueError, match=r"frames\.far_gap"):
        replace(RECIPES["runs"], dynamic_from=3)

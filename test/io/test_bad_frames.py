# SPDX-License-Identifier: Apache-2.0
"""Sources with broken images, uneven times and changing sizes, up to the command's results."""

from __future__ import annotations

import json

import av
import cv2
import numpy as np
import pytest

from tracker_ros.cli.main import main
from tracker_ros.io.sources import open_video
from tracker_ros.io.video_source import BadFrame
from tracker_ros.io.writer import VideoWriter, fit_picture

COUNT = 8


def scene(index: int) -> np.ndarray:
    """Return (96, 128, 3) uint8 with a bright square that moves."""
    picture = np.full((96, 128, 3), 60, np.uint8)
    picture[30:54, 20 + 3 * index : 44 + 3 * index] = (220, 200, 40)
    picture[38:46, 28 + 3 * index : 36 + 3 * index] = (30, 40, 220)
    return picture


@pytest.fixture
def folder(tmp_path):
    """A folder of images; returns its path."""
    path = tmp_path / "frames"
    path.mkdir()
    for index in range(COUNT):
        cv2.imwrite(str(path / f"{index}.png"), scene(index)[..., ::-1])
    return path


def track(source, tmp_path, *options):
    """Run the command; return its exit status and its results."""
    out = tmp_path / "out.json"
    status = main(
        ["track", str(source), "--box", "20", "30", "24", "24", "--results", str(out)]
        + ["--backend", "torch", *options]
    )
    return status, json.loads(out.read_text())


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"text"])
def test_a_broken_image_costs_its_frame_only(folder, tmp_path, content, capsys):
    (folder / "3.png").write_bytes(content)
    with open_video(folder) as video:
        images = [image for _, image in video.timed_frames()]
        assert [isinstance(image, BadFrame) for image in images] == [i == 3 for i in range(COUNT)]
    if content != b"text":
        return
    status, results = track(folder, tmp_path)
    assert status == 3
    assert [entry["frame"] for entry in results["results"]] == [0, 1, 2, 4, 5, 6, 7]
    (line,) = results["bad_frames"]
    assert "3.png" in line and "frame 3" in line
    assert "3.png" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("number", [0, 3])
def test_a_cut_image_is_no_image_wherever_it_is(tmp_path, suffix, number, capsys):
    frames = tmp_path / "frames"
    frames.mkdir()
    for index in range(COUNT):
        whole = cv2.imencode(f".{suffix}", scene(index)[..., ::-1])[1].tobytes()
        content = whole[: len(whole) // 2] if index == number else whole
        (frames / f"{index}.{suffix}").write_bytes(content)
    status, results = track(frames, tmp_path)
    assert status == 3
    good = [index for index in range(COUNT) if index != number]
    assert [entry["frame"] for entry in results["results"]] == good
    assert [entry["time_s"] for entry in results["results"]] == pytest.approx(
        [index / 30 for index in good], abs=1e-3
    )
    assert len(results["bad_frames"]) == 1
    assert f"{number}.{suffix}" in capsys.readouterr().err


def test_sizes_that_change_are_written_in_one_video(folder, tmp_path):
    for index in range(4, COUNT):
        small = cv2.resize(scene(index), None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(folder / f"{index}.png"), small[..., ::-1])
    status, results = track(folder, tmp_path, "--out", str(tmp_path / "out.mp4"))
    assert status == 0
    assert len(results["results"]) == COUNT
    with open_video(tmp_path / "out.mp4") as video:
        assert len(list(video)) == COUNT


def write_uneven(path, times):
    """Write a video whose frames are shown at these times."""
    with VideoWriter(path, 10.0, (128, 96)) as writer:
        for index, time_s in enumerate(times):
            writer.write(scene(index), time_s)


def test_times_of_an_uneven_video_are_those_of_its_frames(tmp_path):
    times = [0.0, 0.05, 0.1, 1.1, 1.15, 3.0, 3.05, 3.1]
    write_uneven(tmp_path / "in.mp4", times)
    with open_video(tmp_path / "in.mp4") as video:
        assert [time for time, _ in video.timed_frames()] == pytest.approx(times, abs=1e-3)
    status, _ = track(tmp_path / "in.mp4", tmp_path, "--out", str(tmp_path / "out.mp4"))
    assert status == 0
    with open_video(tmp_path / "out.mp4") as video:
        assert [time for time, _ in video.timed_frames()] == pytest.approx(times, abs=1e-3)


def test_a_steady_video_keeps_its_rate(tmp_path):
    with VideoWriter(tmp_path / "in.mp4", 29.97, (128, 96)) as writer:
        for index in range(COUNT):
            writer.write(scene(index))
    with av.open(str(tmp_path / "in.mp4")) as container:
        assert float(container.streams.video[0].average_rate) == pytest.approx(29.97, rel=1e-3)


def test_a_cut_video_says_where_it_ends(tmp_path):
    with VideoWriter(tmp_path / "whole.mp4", 10.0, (640, 480)) as writer:
        for index in range(30):
            noise = np.random.default_rng(index).integers(0, 255, (480, 640, 3))
            writer.write(noise.astype(np.uint8))
    data = (tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) // 2])
    with open_video(tmp_path / "cut.mp4") as video:
        images = [image for _, image in video.timed_frames()]
    good = [image for image in images if not isinstance(image, BadFrame)]
    assert 5 < len(good) < 30
    assert isinstance(images[-1], BadFrame)


def test_a_folder_of_a_thermal_camera_uses_its_own_range(tmp_path):
    counts = np.random.default_rng(0).integers(7600, 8111, (48, 64)).astype(np.uint16)
    cv2.imwrite(str(tmp_path / "0.png"), counts)
    (image,) = open_video(tmp_path)
    assert image.std() > 60
    (image,) = open_video(tmp_path, mono16_range="full")
    assert image.std() < 2
    with pytest.raises(ValueError, match="range of grey"):
        open_video(tmp_path, mono16_range="bright")


def test_a_picture_is_fitted_into_the_size_of_the_video():
    wide = np.full((10, 40, 3), 200, np.uint8)
    fitted = fit_picture(wide, (20, 20))
    assert fitted.shape == (20, 20, 3)
    assert fitted[10, 10].tolist() == [200] * 3
    assert fitted[0].max() == 0
    assert fit_picture(wide, (40, 10)) is wide

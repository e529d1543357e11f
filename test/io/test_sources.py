# SPDX-License-Identifier: Apache-2.0
"""Reading and writing videos: what goes in comes out, and errors name the remedy."""

import sys

import cv2
import numpy as np
import pytest

from tracker_ros.io import writer as video_writer
from tracker_ros.io.sources import open_video
from tracker_ros.io.writer import VideoWriter


def _frames(count=12, height=48, width=64):
    """Smooth frames, each with its own level of red and a blue gradient."""
    for index in range(count):
        frame = np.zeros((height, width, 3), np.uint8)
        frame[..., 0] = 20 * index
        frame[..., 2] = np.linspace(0, 200, width, dtype=np.uint8)
        yield frame


def _write(path, frames, fps=25.0):
    frames = list(frames)
    height, width = frames[0].shape[:2]
    with VideoWriter(path, fps, (width, height)) as writer:
        for frame in frames:
            writer.write(frame)
    return writer


def test_round_trip_keeps_frames_rate_size_and_colours(tmp_path):
    path = tmp_path / "folder" / "clip.mp4"
    assert _write(path, _frames()).codec == "h264"
    with open_video(path) as video:
        assert video.size == (64, 48)
        assert video.fps == pytest.approx(25.0)
        assert len(video) == 12
        read = list(video)
        assert len(list(video)) == 12, "iterating again starts again"
    for got, sent in zip(read, _frames(), strict=True):
        assert got.shape == sent.shape
        assert np.abs(got.astype(int) - sent).mean() < 6.0


def test_browsers_can_play_it(tmp_path):
    import av

    path = tmp_path / "clip.mp4"
    _write(path, _frames())
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
    data = path.read_bytes()
    assert 0 < data.find(b"moov") < data.find(b"mdat"), "the index comes first"
    assert list(tmp_path.iterdir()) == [path], "nothing else is left behind"


def test_odd_sides_grow_to_even(tmp_path):
    path = tmp_path / "odd.mp4"
    _write(path, _frames(3, 47, 63))
    with open_video(path) as video:
        assert video.size == (64, 48)


def test_without_pyav_opencv_writes_and_reads(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(video_writer._LOG, "warning", lambda text, *parts: said.append(text))
    monkeypatch.setitem(sys.modules, "av", None)
    path = tmp_path / "clip.mp4"
    assert _write(path, _frames()).codec == "mp4v"
    assert len(said) == 1
    assert "PyAV is missing" in said[0]
    with open_video(path) as video:
        assert len(list(video)) == 12
        assert video.size == (64, 48)
        assert next(iter(video)).shape == (48, 64, 3)


def test_an_exception_leaves_no_half_written_file(tmp_path):
    path = tmp_path / "clip.mp4"
    with pytest.raises(KeyError), VideoWriter(path, 10, (64, 48)) as writer:
        writer.write(next(_frames()))
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_writer_refuses_other_shapes_and_rates(tmp_path):
    with pytest.raises(ValueError, match="fps is 0"):
        VideoWriter(tmp_path / "a.mp4", 0, (64, 48))
    writer = VideoWriter(tmp_path / "a.mp4", 5, (64, 48))
    with pytest.raises(ValueError, match=r"\(64, 48, 3\).*\(48, 64, 3\)"):
        writer.write(np.zeros((64, 48, 3), np.uint8))
    writer.discard()


def test_image_folder_is_read_in_natural_order_as_rgb(tmp_path):
    for index in (10, 2, 1):
        image = np.zeros((8, 10, 3), np.uint8)
        image[..., 2] = index  # OpenCV's channel 2 is red
        cv2.imwrite(str(tmp_path / f"frame{index}.png"), image)
    (tmp_path / "notes.txt").write_text("not an image")
    for source in (str(tmp_path), str(tmp_path / "*.png")):
        with open_video(source, fps=12) as video:
            assert (len(video), video.fps, video.size) == (3, 12, (10, 8))
            assert [int(frame[0, 0, 0]) for frame in video] == [1, 2, 10]


def test_a_stretch_starts_and_stops_where_told(tmp_path):
    path = tmp_path / "clip.mp4"
    _write(path, _frames())
    with open_video(path, start=4, count=3) as video:
        assert len(video) == 3
        levels = [frame[..., 0].mean() for frame in video]
    assert np.allclose(levels, [80, 100, 120], atol=6)
    with open_video(path, start=10, count=9) as video:
        assert len(video) == len(list(video)) == 2
    with pytest.raises(ValueError, match="12 frames"):
        open_video(path, start=12)


@pytest.mark.parametrize(
    ("stretch", "levels"),
    [(":3", [0, 20, 40]), ("9:", [180, 200, 220]), ("4:6", [80, 100]), ("10:99", [200, 220])],
)
def test_a_stretch_can_be_part_of_the_source(tmp_path, stretch, levels):
    path = tmp_path / "clip.mp4"
    _write(path, _frames())
    with open_video(f"{path}#frames={stretch}") as video:
        assert len(video) == len(levels)
        for _ in range(2):
            assert np.allclose([frame[..., 0].mean() for frame in video], levels, atol=6)
    with open_video(f"{path}#frames=2:8", start=3, count=9) as video:
        assert np.allclose([frame[..., 0].mean() for frame in video], [100, 120, 140], atol=6)
    with pytest.raises(ValueError, match="names no frames"):
        open_video(f"{path}#frames=5:5")


def test_errors_name_the_source_and_the_remedy(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no video at .*nowhere.*synthetic"):
        open_video(tmp_path / "nowhere.mp4")
    (tmp_path / "text.mp4").write_text("this is no video")
    with pytest.raises(ValueError, match=r"text\.mp4.*convert"):
        open_video(tmp_path / "text.mp4")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no images in"):
        open_video(tmp_path / "empty")
    with pytest.raises(ValueError, match="seed is 'x'"):
        open_video("synthetic:x")
    with pytest.raises(ValueError, match="fps is -1"):
        open_video("synthetic", fps=-1)
    with pytest.raises(ValueError, match="count 0"):
        open_video("synthetic", count=0)


def test_length_of_an_endless_source_is_a_type_error(tmp_path):
    path = tmp_path / "clip.mp4"
    _write(path, _frames())
    with open_video(path) as video:
        video.frame_count = None
        assert video
        with pytest.raises(TypeError, match="not known"):
            len(video)

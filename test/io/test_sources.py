# SPDX-License-Identifier: Apache-2.0
"""Reading and writing videos: what goes in comes out, and errors name the remedy."""

import io
import logging
import struct
import sys

import av
import cv2
import numpy as np
import pytest

from tracker_ros.io import writer as writer_module
from tracker_ros.io.sources import ImageFiles, VideoFile, open_video, source_path
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


def _codec(path):
    with av.open(str(path)) as container:
        return container.streams.video[0].codec_context.name


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Twelve frames at 25 Hz, their level of red 20 higher each."""
    path = tmp_path_factory.mktemp("video") / "folder" / "clip.mp4"
    _write(path, _frames())
    assert _codec(path) == "h264"
    return path


def _reds(images):
    return [float(image[..., 0].mean()) for image in images]


def test_round_trip_keeps_frames_rate_size_and_colours(clip):
    with open_video(clip) as video:
        assert isinstance(video, VideoFile)
        assert video.size == (64, 48)
        assert video.fps == pytest.approx(25.0)
        assert len(video) == 12
        read = list(video)
        assert len(list(video)) == 12, "iterating again starts again"
    for got, sent in zip(read, _frames(), strict=True):
        assert got.shape == sent.shape
        assert np.abs(got.astype(int) - sent).mean() < 6.0


def test_browsers_can_play_it(clip):
    with av.open(str(clip)) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
    data = clip.read_bytes()
    assert 0 < data.find(b"moov") < data.find(b"mdat"), "the index comes first"
    assert list(clip.parent.iterdir()) == [clip], "nothing else is left behind"


def test_odd_sides_grow_to_even(tmp_path):
    path = tmp_path / "odd.mp4"
    _write(path, _frames(3, 47, 63))
    with open_video(path) as video:
        assert video.size == (64, 48)


def test_without_an_h264_encoder_ffmpegs_own_writes_and_one_line_says_so(tmp_path, monkeypatch):
    said = []
    logger = logging.getLogger("tracker_ros.io.writer")
    monkeypatch.setattr(logger, "warning", lambda text, *values: said.append(text % values))

    monkeypatch.setattr(writer_module, "H264_ENCODERS", ("no_such_encoder",))
    path = tmp_path / "clip.mp4"
    _write(path, _frames())
    assert _codec(path) == "mpeg4"
    assert len(said) == 1
    assert "clip.mp4" in said[0]
    with open_video(path) as video:
        assert len(list(video)) == 12
        assert video.size == (64, 48)


def test_without_pyav_the_error_says_what_to_install(clip, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match="pip install av"):
        open_video(clip)
    with pytest.raises(ImportError, match="pip install av"):
        VideoWriter(tmp_path / "new" / "a.mp4", 25, (64, 48))
    assert not (tmp_path / "new").exists()


def test_an_exception_leaves_no_half_written_file(tmp_path):
    path = tmp_path / "clip.mp4"
    with pytest.raises(KeyError), VideoWriter(path, 10, (64, 48)) as writer:
        writer.write(next(_frames()))
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_writer_refuses_other_shapes_and_rates(tmp_path):
    with pytest.raises(ValueError, match="fps is 0"):
        VideoWriter(tmp_path / "a.mp4", 0, (64, 48))
    with pytest.raises(ValueError, match="size is"):
        VideoWriter(tmp_path / "a.mp4", 5, (0, 48))
    writer = VideoWriter(tmp_path / "a.mp4", 5, (64, 48))
    with pytest.raises(ValueError, match=r"\(64, 48, 3\).*\(48, 64, 3\)"):
        writer.write(np.zeros((64, 48, 3), np.uint8))
    with pytest.raises(ValueError, match="float32"):
        writer.write(np.zeros((48, 64, 3), np.float32))
    writer.discard()


@pytest.fixture(scope="module")
def paused(tmp_path_factory):
    """Four frames at 25 Hz, with a pause after the second."""
    path = tmp_path_factory.mktemp("paused") / "paused.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index, frame in enumerate(_frames(4)):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts = (0, 1, 10, 11)[index]
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


def test_each_frame_has_the_time_recorded_with_it(paused, clip):
    with open_video(paused) as video:
        assert [time for time, _ in video.timed_frames()] == pytest.approx([0, 0.04, 0.4, 0.44])
        assert video.frame_count is None, "a Matroska file does not say"
    with open_video(paused, start=1, count=2) as video:
        assert [time for time, _ in video.timed_frames()] == pytest.approx([0, 0.36])
    with open_video(paused, fps=10) as video:
        assert [time for time, _ in video.timed_frames()] == pytest.approx([0, 0.1, 0.2, 0.3])
    with open_video(clip) as video:
        times, images = zip(*video.timed_frames(9), strict=True)
        assert times == pytest.approx([0.36, 0.4, 0.44])
        assert np.allclose(_reds(images), [180, 200, 220], atol=6)


def test_a_turned_video_is_shown_upright(clip, tmp_path):
    data = bytearray(clip.read_bytes())
    matrix = data.index(b"tkhd") + 44  # in the header of the track: a, b, u, c, d, v, ...
    one = 1 << 16
    data[matrix : matrix + 20] = struct.pack(">5i", 0, one, 0, -one, 0)  # a quarter clockwise
    (tmp_path / "turned.mp4").write_bytes(data)
    with open_video(tmp_path / "turned.mp4") as video:
        assert video.size == (48, 64)
        image = next(iter(video))
    assert image.shape == (64, 48, 3)
    assert image.flags.c_contiguous
    assert image[0, :, 2].max() < 20, "what was on the left is above"
    assert image[-1, :, 2].min() > 180


def test_image_folder_is_read_in_natural_order_as_rgb(tmp_path):
    for index in (10, 2, 1):
        image = np.zeros((8, 10, 3), np.uint8)
        image[..., 2] = index  # OpenCV's channel 2 is red
        cv2.imwrite(str(tmp_path / f"frame{index}.png"), image)
    (tmp_path / "notes.txt").write_text("not an image")
    for source in (str(tmp_path), str(tmp_path / "*.png")):
        with open_video(source, fps=12) as video:
            assert isinstance(video, ImageFiles)
            assert (len(video), video.fps, video.size) == (3, 12, (10, 8))
            times, images = zip(*video.timed_frames(), strict=True)
            assert [int(image[0, 0, 0]) for image in images] == [1, 2, 10]
            assert times == pytest.approx([0, 1 / 12, 2 / 12])


def test_a_stretch_starts_and_stops_where_told(clip):
    with open_video(clip, start=4, count=3) as video:
        assert len(video) == 3
        assert np.allclose(_reds(video), [80, 100, 120], atol=6)
    with open_video(clip, start=10, count=9) as video:
        assert len(video) == len(list(video)) == 2
    with pytest.raises(ValueError, match="12 frames"):
        open_video(clip, start=12)


@pytest.mark.parametrize(
    ("stretch", "levels"),
    [(":3", [0, 20, 40]), ("9:", [180, 200, 220]), ("4:6", [80, 100]), ("10:99", [200, 220])],
)
def test_a_stretch_can_be_part_of_the_source(clip, stretch, levels):
    with open_video(f"{clip}#frames={stretch}") as video:
        assert len(video) == len(levels)
        for _ in range(2):
            assert np.allclose(_reds(video), levels, atol=6)


def test_limits_apply_within_a_stretch(clip):
    with open_video(f"{clip}#frames=2:8", start=3, count=9) as video:
        assert np.allclose(_reds(video), [100, 120, 140], atol=6)
    with pytest.raises(ValueError, match="names no frames"):
        open_video(f"{clip}#frames=5:5")


def test_the_synthetic_scene_knows_its_first_box():
    with open_video("synthetic:3", size=(80, 64), start=0, count=2) as video:
        assert (len(video), video.size, video.fps) == (2, (80, 64), 30)
        assert len(video.first_box) == 4
        times, images = zip(*video.timed_frames(), strict=True)
        assert times == pytest.approx([0, 1 / 30])
        assert images[0].shape == (64, 80, 3)
    with open_video("synthetic:3", size=(80, 64), start=1, count=1) as video:
        assert video.first_box is None
        assert np.array_equal(next(iter(video)), images[1])


class _Camera:
    """Stands in for OpenCV's capture of a webcam that gives three images."""

    def __init__(self, index):
        self.index, self.left, self.asked = index, 4, {}

    def set(self, what, value):
        self.asked[what] = value

    def get(self, what):
        return 0.0

    def read(self):
        self.left -= 1
        return (False, None) if self.left < 0 else (True, np.full((6, 8, 3), (1, 2, 3), np.uint8))

    def release(self):
        self.left = 0


def test_a_webcam_gives_rgb_with_the_times_of_capture(monkeypatch):
    monkeypatch.setattr(cv2, "VideoCapture", _Camera)
    with open_video("1", size=(8, 6)) as video:
        assert (video.name, video.size, video.fps) == ("webcam 1", (8, 6), 30)
        assert video.frame_count is None
        times, images = zip(*video.timed_frames(), strict=True)
    assert times[0] == 0.0 <= times[1] <= times[2]
    assert images[0][0, 0].tolist() == [3, 2, 1]


@pytest.mark.parametrize(
    ("source", "options", "kind", "message"),
    [
        ("nowhere.mp4", {}, FileNotFoundError, r"no video at .*nowhere.*synthetic"),
        ("text.mp4", {}, ValueError, r"text\.mp4.*convert"),
        ("empty", {}, ValueError, "no images in"),
        ("empty/*.png", {}, ValueError, "no images in"),
        ("synthetic:x", {}, ValueError, "seed is 'x'"),
        ("synthetic", {"fps": -1}, ValueError, "fps is -1"),
        ("synthetic", {"fps": 1e-300}, ValueError, "fps is 1e-300"),
        ("synthetic", {"fps": float("inf")}, ValueError, "fps is inf"),
        ("synthetic", {"count": 0}, ValueError, "count 0"),
        ("synthetic", {"start": -1}, ValueError, "start is -1"),
        ("bag:none:/image", {}, FileNotFoundError, "no bag at"),
        ("sound.wav", {}, ValueError, "no video stream"),
    ],
)
def test_errors_name_the_source_and_the_remedy(
    source, options, kind, message, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.mp4").write_text("this is no video")
    (tmp_path / "empty").mkdir()
    with av.open("sound.wav", "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
    with pytest.raises(kind, match=message):
        open_video(source, **options)


def test_a_webcam_that_is_not_there_is_named():
    with pytest.raises(FileNotFoundError, match="webcam 97 gives no picture"):
        open_video("97")


def test_length_of_an_endless_source_is_a_type_error(paused):
    with open_video(paused) as video:
        assert video
        with pytest.raises(TypeError, match="not known"):
            len(video)


@pytest.fixture
def numbered(tmp_path):
    """Images 0003 to 0012, and others beside them."""
    for index in range(3, 13):
        image = np.full((20, 30, 3), index, np.uint8)
        cv2.imwrite(str(tmp_path / f"{index:04d}.png"), image)
    cv2.imwrite(str(tmp_path / "cover.png"), np.full((20, 30, 3), 99, np.uint8))
    return tmp_path


def test_numbered_images_and_a_single_one(numbered):
    with open_video(numbered / "%04d.png") as video:
        assert [int(image[0, 0, 0]) for image in video] == list(range(3, 13))
    with open_video(numbered / "cover.png") as video:
        assert len(video) == 1
        assert int(next(iter(video))[0, 0, 0]) == 99
    with pytest.raises(ValueError, match="no images"):
        open_video(numbered / "f%02d.png")
    with pytest.raises(ValueError, match="no pattern for numbers"):
        open_video(numbered / "%s.png")


def test_streams_are_read_once_from_standard_input(numbered, monkeypatch):
    raw = np.stack([np.full((20, 30, 3), index, np.uint8) for index in range(5)])
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(raw.tobytes())))
    with open_video("-", size=(30, 20), fps=10) as video:
        assert video.size == (30, 20)
        assert int(next(iter(video))[0, 0, 0]) == 0
        frames = list(video.timed_frames())
    assert [int(image[0, 0, 0]) for _, image in frames] == [1, 2, 3, 4]
    assert [round(time_s, 3) for time_s, _ in frames] == [0.1, 0.2, 0.3, 0.4]
    y4m = b"YUV4MPEG2 W30 H20 F10:1 Cmono\n" + b"".join(
        b"FRAME\n" + np.full((20, 30), value, np.uint8).tobytes() for value in (20, 200)
    )
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(y4m)))
    with open_video("-") as video:
        dark, bright = list(video.timed_frames())
    assert dark[1].mean() < 60 < 150 < bright[1].mean()
    assert bright[0] == pytest.approx(0.1)


@pytest.mark.parametrize("start", [0, 2])
@pytest.mark.parametrize("kind", ["stream", "webcam", "files"])
def test_the_first_image_can_be_seen_before_the_rest(kind, start, tmp_path, monkeypatch):
    raw = np.stack([np.full((6, 8, 3), index, np.uint8) for index in range(5)])
    if kind == "stream":
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(raw.tobytes())))
    if kind == "webcam":
        pictures = iter([raw[0], *raw])  # the one by which the camera is tried is not kept
        monkeypatch.setattr(cv2, "VideoCapture", _Camera)
        monkeypatch.setattr(_Camera, "read", lambda camera: (True, next(pictures)))
    for index, picture in enumerate(raw):
        cv2.imwrite(str(tmp_path / f"{index}.png"), picture)
    name = {"stream": "-", "webcam": "0", "files": tmp_path}[kind]
    with open_video(name, size=(8, 6), start=start, count=3) as video:
        assert video.first_image().max() == start
        assert video.first_image().max() == start
        frames = [int(image.max()) for _, image in video.timed_frames()]
    assert frames == [start, start + 1, start + 2]


def test_an_address_that_does_not_answer_is_named():
    with pytest.raises(FileNotFoundError, match=r"http://127\.0\.0\.1:9/a\.mjpg gives no video"):
        open_video("http://127.0.0.1:9/a.mjpg")
    assert source_path("rtsp://127.0.0.1/x") is None
    assert source_path("-") is None


def test_a_device_is_the_webcam_of_its_number():
    with pytest.raises(FileNotFoundError, match="webcam 99 gives no picture"):
        open_video("/dev/video99")

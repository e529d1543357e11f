# SPDX-License-Identifier: Apache-2.0
"""Packets of live video streams: no delay, right order and stamps, loss."""

from __future__ import annotations

import threading
from fractions import Fraction
from functools import lru_cache

import av
import numpy as np
import pytest

from tracker_ros.io.image_encodings import MalformedImageError, UnsupportedEncodingError
from tracker_ros.io.video_packets import PacketDecoder, PacketThread, VideoPacket

COUNT, GROUP, WIDTH, HEIGHT = 24, 8, 160, 128
SECOND = 1_000_000_000
QUIET = "log-level=none"
STREAMS = {
    "h264": ("libx264", {"tune": "zerolatency", "preset": "ultrafast"}),
    "h264 high": ("libx264", {"tune": "zerolatency", "preset": "veryfast"}),
    "h265": ("libx265", {"tune": "zerolatency", "preset": "ultrafast", "x265-params": QUIET}),
    "av1": ("libsvtav1", {"preset": "12", "svtav1-params": "pred-struct=1:lookahead=0"}),
}
WITH_B_FRAMES = {
    "h264": ("libx264", {"bf": "2", "preset": "veryfast"}),
    "h265": ("libx265", {"preset": "ultrafast", "x265-params": f"bframes=2:{QUIET}"}),
}


def stamp(index: int) -> int:
    return (1000 + index) * SECOND // 30


def brightness(index: int) -> int:
    return 40 + 8 * index


def picture(index: int) -> np.ndarray:
    """Return (H, W, 3) uint8; its brightness tells its place."""
    return np.full((HEIGHT, WIDTH, 3), brightness(index), np.uint8)


@lru_cache
def packets(codec: str, b_frames: bool = False) -> tuple[VideoPacket, ...]:
    """Return a stream with a key frame every `GROUP` images, in the order of decoding."""
    encoder, options = (WITH_B_FRAMES if b_frames else STREAMS)[codec]
    assert encoder in av.codecs_available, f"this PyAV has no {encoder}: pip install av"
    context = av.CodecContext.create(encoder, "w")
    context.width, context.height, context.pix_fmt = WIDTH, HEIGHT, "yuv420p"
    context.time_base, context.framerate = Fraction(1, 30), Fraction(30)
    context.gop_size = GROUP
    context.options = dict(options)
    made = []
    for index in range(COUNT):
        frame = av.VideoFrame.from_ndarray(picture(index), format="rgb24")
        frame = frame.reformat(format="yuv420p")
        frame.pts, frame.time_base = index, Fraction(1, 30)
        made += context.encode(frame)
    made += context.encode(None)
    name = f"{codec.partition(' ')[0]};yuv420p;bgr8;bgr8"
    return tuple(
        VideoPacket(name, bytes(p), stamp(p.pts), f"cam{p.pts}", number=p.pts) for p in made
    )


def play(stream, decoder=None):
    """Return (packet's place, stamp, frame_id, brightness) of each image, and the losses."""
    decoder = decoder or PacketDecoder()
    found = []
    for place, packet in enumerate(stream):
        try:
            images = decoder.decode(packet)
        except MalformedImageError:
            continue
        found += [
            (place, image.stamp_ns, image.frame_id, float(image.to_rgb().mean()))
            for image in images
        ]
    return found, decoder.losses


def places(found) -> list[int]:
    """Return the indices of the images, which their pictures confirm."""
    indices = [int(frame_id[3:]) for _, _, frame_id, _ in found]
    assert [stamp_ns for _, stamp_ns, _, _ in found] == [stamp(i) for i in indices]
    np.testing.assert_allclose([b for *_, b in found], [brightness(i) for i in indices], atol=3)
    return indices


@pytest.mark.parametrize("codec", STREAMS)
def test_each_image_comes_with_its_own_packet(codec):
    found, losses = play(packets(codec))
    assert places(found) == list(range(COUNT))
    assert [place for place, *_ in found] == list(range(COUNT))
    assert losses == 0


@pytest.mark.parametrize("codec", WITH_B_FRAMES)
def test_b_frames_come_in_order_with_their_own_stamps(codec):
    stream = packets(codec, b_frames=True)
    assert [p.number for p in stream] != sorted(p.number for p in stream)
    found, losses = play(stream)
    indices = places(found)
    assert indices == list(range(len(indices)))
    assert len(indices) >= COUNT - 4, "only those behind the last packet are missing"
    assert max(place - index for (place, *_), index in zip(found, indices, strict=True)) <= 3
    assert losses == 0


@pytest.mark.parametrize("codec", STREAMS)
def test_a_stream_begins_at_a_key_frame(codec):
    found, losses = play(packets(codec)[3:])
    assert places(found) == list(range(GROUP, COUNT))
    assert losses == 0


@pytest.mark.parametrize("codec", STREAMS)
@pytest.mark.parametrize("lost", [(5,), (5, 6), (1,), (9, 10, 12)])
def test_a_loss_costs_the_images_up_to_the_next_key_frame(codec, lost):
    stream = [packet for place, packet in enumerate(packets(codec)) if place not in lost]
    found, losses = play(stream)
    first = lost[0]
    resumed = (first // GROUP + 1) * GROUP
    assert places(found) == [*range(first), *range(resumed, COUNT)]
    assert losses == 1


def test_a_lost_key_frame_costs_its_group():
    found, _ = play([p for place, p in enumerate(packets("h264")) if place != GROUP])
    assert places(found) == [*range(GROUP), *range(2 * GROUP, COUNT)]


@pytest.mark.parametrize("codec", ["h264", "h265"])
def test_a_loss_among_b_frames_shows_no_smeared_image(codec):
    stream = packets(codec, b_frames=True)
    lost = next(i for i in range(3, GROUP) if stream[i].number > stream[i + 1].number)
    found, losses = play([p for place, p in enumerate(stream) if place != lost])
    assert losses == 1
    assert places(found)[-1] >= COUNT - 4


@pytest.mark.parametrize("codec", STREAMS)
def test_damaged_packets_end_nothing(codec):
    rng = np.random.default_rng(3)
    stream = list(packets(codec))
    for place in (2, 4):
        data = stream[place].data
        damaged = [b"", rng.bytes(40), data[: len(data) // 2]][place % 3]
        stream[place] = VideoPacket(stream[place].codec, damaged, stamp(place), f"cam{place}")
    found, _ = play(stream)
    tail = [int(frame_id[3:]) for _, _, frame_id, _ in found][-2 * GROUP :]
    assert tail == list(range(GROUP, COUNT))


def test_a_stream_may_start_again_at_any_packet():
    stream = [*packets("h264")[:12], *packets("h264")[5:]]
    assert places(play(stream)[0]) == [*range(12), *range(GROUP, COUNT)]


def test_a_stream_may_change_its_codec():
    found, losses = play([*packets("h264")[:6], *packets("h265")[:6]])
    assert places(found) == [*range(6), *range(6)]
    assert losses == 0


@pytest.mark.parametrize(
    ("name", "codec"),
    [("libx264", "h264"), ("h264_nvenc", "h264"), ("HEVC_VAAPI;nv12", "h265"), ("H265", "h265")],
)
def test_names_of_encoders_tell_the_codec(name, codec):
    stream = [VideoPacket(name, p.data, p.stamp_ns, p.frame_id) for p in packets(codec)]
    assert places(play(stream)[0]) == list(range(COUNT))


@pytest.mark.parametrize("name", ["", "theora", "jpeg2000;x"])
def test_an_unknown_codec_is_named(name):
    with pytest.raises(UnsupportedEncodingError, match="h264"):
        PacketDecoder().decode(VideoPacket(name, b"1", 1))


def test_a_thread_decodes_all_in_order_and_ends():
    images, reasons, done = [], [], threading.Event()

    def receive(image):
        images.append(image)
        if len(images) == COUNT:
            done.set()

    thread = PacketThread(receive, reasons.append)
    thread.put(VideoPacket("theora", b"1", 1))
    for packet in packets("h264"):
        thread.put(packet)
    assert done.wait(30)
    thread.close()
    assert [image.stamp_ns for image in images] == [stamp(i) for i in range(COUNT)]
    assert images[0].byte_count == pytest.approx(WIDTH * HEIGHT * 1.5, rel=0.7)
    assert len(reasons) == 1

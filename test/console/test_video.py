# SPDX-License-Identifier: Apache-2.0
"""Tests of the console's video without a browser: packets, who gets them, pairs of topics."""

from __future__ import annotations

import asyncio

import numpy as np

from tracker_ros.console.encoders import PictureEncoder, VideoEncoder, encode_jpeg, shrink
from tracker_ros.console.hub import Hub, VideoPacket
from tracker_ros.console.pairing import FramePairing
from tracker_ros.console.webrtc import PictureTrack, without_hidden_hosts


def test_video_begins_with_a_key_and_is_smaller_than_its_bound():
    encoder = VideoEncoder(1_000_000)
    noise = np.random.default_rng(0).integers(0, 256, (30, 121, 161, 3), np.uint8)
    packets = [encoder.encode(frame, 3000 * i, key=i == 20) for i, frame in enumerate(noise)]
    assert [i for i, packet in enumerate(packets) if packet.key] == [0, 20]
    assert sum(len(packet.data) for packet in packets) < 1_000_000 / 8 * 2


def test_a_track_sends_the_first_picture_alone_and_then_from_a_key_on():
    async def play():
        track = PictureTrack()

        def offer(*, key):
            return track.offer(VideoPacket(b"\0\0\1\x65", 1, key))

        assert not offer(key=True), "nothing is connected"
        asked = asyncio.create_task(track.recv())
        await asyncio.sleep(0)
        sent = [offer(key=False), offer(key=True), offer(key=False), offer(key=True)]
        assert sent == [False, True, False, False]
        await asked
        track.open()
        sent = [offer(key=False), offer(key=True), offer(key=False)]
        assert sent == [False, True, True]
        while offer(key=False):
            pass  # nobody takes any: the queue is full
        assert track.needs_key
        assert [offer(key=False), offer(key=True)] == [False, True]

    asyncio.run(play())


def test_a_picture_that_is_no_video_comes_as_jpeg():
    async def play():
        hub, track = Hub(), PictureTrack()
        hub.attach(asyncio.get_running_loop())
        viewer = hub.enter()
        viewer.tracks["/image"] = track
        asyncio.create_task(track.recv())
        await asyncio.sleep(0)
        track.open()
        pictures = PictureEncoder(hub, "/image", 960, 80, 1_000_000)
        kinds = []
        for width in (64, 1, 64):
            pictures.show(np.zeros((48, width, 3), np.uint8), {})
            await asyncio.sleep(0)
            kinds.append((len(viewer.frames), len(viewer.pictures)))
            viewer.frames.clear()
            viewer.pictures.clear()
        assert kinds == [(1, 0), (0, 1), (1, 0)]

    asyncio.run(play())


def test_a_hidden_viewer_takes_no_pictures():
    counts = []
    hub = Hub(counts.append)
    viewer = hub.enter()
    assert hub.wanted("/image").jpeg
    viewer.looking = False
    hub.count()
    assert not hub.wanted("/image").jpeg
    assert counts == [1, 0]


def test_hidden_hosts_become_the_known_address():
    line = "a=candidate:1 1 udp 2113937151 {} 40000 typ host generation 0\r\n"
    hidden = "v=0\r\n" + line.format("8f2e-1.local") + line.format("192.0.2.7")
    shown = "v=0\r\n" + line.format("192.0.2.9") + line.format("192.0.2.7")
    assert without_hidden_hosts(hidden, "192.0.2.9") == shown


def test_pictures_are_made_smaller_and_keep_their_shape():
    pixels = np.zeros((1080, 1920, 3), np.uint8)
    assert shrink(pixels, 960).shape == (540, 960, 3)
    assert shrink(pixels, 1920) is pixels
    assert encode_jpeg(pixels, 80).startswith(b"\xff\xd8")


def test_a_frame_is_complete_with_its_status_and_the_boxes_that_it_announces():
    frames = FramePairing()
    frames.add_image(1, "one")
    frames.add_status(1, has_boxes=True)
    assert frames.pop_complete() is None, "the boxes are on their way"
    frames.add_boxes(1, ["box"])
    frames.add_status(2, has_boxes=False)
    assert frames.pop_complete() == (1, "one", ["box"])
    assert frames.pop_complete() is None
    frames.add_image(2, "two")
    frames.add_image(3, "three")
    assert frames.pop_complete() == (2, "two", None)
    assert frames.pop_newest() == (3, "three")
    assert frames.pop_newest() is None


def test_what_nobody_completes_is_forgotten():
    frames = FramePairing()
    for stamp in range(1000):
        frames.add_image(stamp, str(stamp))
    frames.add_status(0, has_boxes=False)
    assert frames.pop_complete() is None, "the image is long gone"
    frames.clear()
    assert frames.pop_newest() is None

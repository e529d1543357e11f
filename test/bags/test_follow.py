# SPDX-License-Identifier: Apache-2.0
"""The node's loop over recordings: what it follows, from what, and at what pace."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest
from recordings import (
    HEIGHT,
    START_NS,
    STEP_NS,
    WIDTH,
    box,
    detection,
    picture,
    record,
    select_event,
)

from tracker_ros.bags.follow import BagSettings, BagTopics, follow_bag
from tracker_ros.bags.playback import BagClock, BagMessage, bag_messages
from tracker_ros.bags.requests import find_selections
from tracker_ros.following.selection import Selection
from tracker_ros.following.target_state import TargetState
from tracker_ros.geometry import iou
from tracker_ros.io.bag_reader import open_bag
from tracker_ros.io.bag_writer import BagWriter

IMAGE = "/camera/image_raw"


def follow(path, tracker, first=(), settings=None, **topics):
    reader = open_bag(path)
    topics = {"image": IMAGE, **topics}
    return list(follow_bag(reader, BagTopics(**topics), tracker.fork(), first, settings))


def boxes(reports):
    return {
        given.report.frame.stamp_ns: given.report.first.result.box
        for given in reports
        if given.report.frame is not None and given.report.first.result is not None
    }


def test_every_image_is_tracked_with_its_own_stamp(recording, tracker):
    reports = follow(recording, tracker, [Selection(box(0))])
    found = boxes(reports)
    assert list(found) == [START_NS + i * STEP_NS for i in range(1, 16)]
    assert all(
        iou(found[START_NS + i * STEP_NS], box(i)) > 0.5 for i in range(1, 16) if i not in (10, 11)
    )
    assert reports[-1].report.counts.dropped == 0
    times = [given.time_ns for given in reports if given.report.frame is not None]
    assert times == [START_NS + i * STEP_NS + 5_000_000 for i in range(16)]


def test_compressed_images_sqlite_and_folders_give_the_same_boxes(recording, tracker, tmp_path):
    wanted = list(boxes(follow(recording, tracker, [Selection(box(0))])).values())[:5]
    packed = "/camera/image_raw/compressed"
    for name, topic in (("run.db3", IMAGE), ("folder", packed)):
        path = record(tmp_path / name, 6, topics=(topic,))
        found = boxes(follow(path, tracker, [Selection(box(0))], image=topic))
        assert list(found.values()) == wanted


def test_depth_gives_a_place_though_it_is_recorded_after_its_image(recording, tracker):
    reports = follow(
        recording, tracker, [Selection(box(0))], camera_info="/camera/camera_info", depth="/depth"
    )
    with_image = [given for given in reports if given.report.image is not None]
    assert all(given.camera is not None and given.depth is not None for given in with_image[1:])


def test_a_detection_in_the_bag_starts_on_the_image_of_its_stamp(tracker, tmp_path):
    late = detection(box(2), START_NS + 2 * STEP_NS)
    path = record(tmp_path / "run.mcap", 12, extra={6: ("/selection", late)})
    selections = find_selections(open_bag(path))
    assert selections == (("/selection", False),)
    found = boxes(follow(path, tracker, selections=selections))
    assert list(found) == [START_NS + i * STEP_NS for i in range(6, 12)]
    assert iou(found[START_NS + 11 * STEP_NS], box(11)) > 0.5


def test_a_recorded_call_counts_once(tracker, tmp_path):
    extra = {
        2: ("/select_target/_service_event", select_event(box(2), START_NS + 2 * STEP_NS, 0)),
        3: ("/select_target/_service_event", select_event(box(2), START_NS + 2 * STEP_NS, 1)),
    }
    path = record(tmp_path / "run.mcap", 8, extra=extra)
    reports = follow(path, tracker, selections=find_selections(open_bag(path)))
    last = reports[-1].report.first
    assert (last.target_id, last.label) == ("1", "called")
    assert last.state is TargetState.TRACKING


def test_a_refused_selection_in_the_bag_is_told_and_the_run_goes_on(tracker, tmp_path):
    outside = detection((5000.0, 0.0, 40.0, 40.0), 0)
    path = record(tmp_path / "run.mcap", 4, extra={1: ("/selection", outside)})
    told = []
    topics = BagTopics(IMAGE, selections=(("/selection", False),))
    reports = list(follow_bag(open_bag(path), topics, tracker.fork(), tell=told.append))
    assert len(reports) == 4
    assert len(told) == 1
    assert "/selection" in told[0]
    with pytest.raises(ValueError, match="refused"):
        follow(path, tracker, [Selection((5000.0, 0.0, 40.0, 40.0))])


def test_boxes_may_be_on_a_later_image(recording, tracker):
    settings = BagSettings(start_s=5 * STEP_NS / 1e9)
    found = boxes(follow(recording, tracker, [Selection(box(5))], settings))
    assert min(found) == START_NS + 6 * STEP_NS
    with pytest.raises(ValueError, match="--at"):
        follow(recording, tracker, [Selection(box(0))], BagSettings(start_s=60.0))


def test_a_gap_in_the_recording_loses_the_target(tracker, tmp_path):
    path = record(tmp_path / "run.mcap", 4)
    reader = open_bag(path)
    messages = list(reader.messages([IMAGE]))

    class Gap:
        """The same bag, of which the last image came three seconds later."""

        path, topics, refused = reader.path, reader.topics, reader.refused
        deserialize = staticmethod(reader.deserialize)

        def messages(self, topics):
            *early, (topic, time_ns, data) = messages
            return iter([*early, (topic, time_ns + 3 * 10**9, data)])

    run = follow_bag(Gap(), BagTopics(IMAGE), tracker.fork(), [Selection(box(0))])
    states = [given.report.first.state for given in run if given.report.frame is None]
    assert TargetState.LOST in states


def test_at_a_rate_images_are_left_out_as_a_node_leaves_them_out(recording, tracker):
    reports = follow(recording, tracker, [Selection(box(0))], BagSettings(rate=1000.0))
    counts = reports[-1].report.counts
    assert counts.received == 16
    assert counts.dropped > 0
    assert counts.tracked + counts.dropped + counts.idle + counts.rejected == counts.received


class Wall:
    """A clock that is moved by waiting."""

    def __init__(self):
        self.now_s = 100.0

    def sleep(self, seconds):
        self.now_s += seconds


def test_the_clock_waits_for_what_is_not_due():
    wall = Wall()
    clock = BagClock(2.0, wall.sleep, lambda: wall.now_s)
    clock.advance(10**9)
    assert not clock.is_due(2 * 10**9)
    clock.advance(2 * 10**9)
    assert wall.now_s == pytest.approx(100.5)
    wall.now_s += 1.0
    assert clock.now_ns() == pytest.approx(4 * 10**9)
    assert clock.is_due(4 * 10**9 - 1)


class Listed:
    """A bag of some messages."""

    def __init__(self, *messages):
        self._messages = messages

    def messages(self, topics):
        return iter(self._messages)


def test_what_belongs_to_an_image_comes_before_it():
    bag = Listed(("/i", 0, b"i0"), ("/d", 30, b"d0"), ("/i", 100, b"i1"), ("/d", 160, b"d1"))
    found = [message.data for message in bag_messages(bag, ["/i", "/d"], ["/d"], 50)]
    assert found == [b"d0", b"i0", b"i1", b"d1"]
    assert [m.time_ns for m in bag_messages(bag, ["/i", "/d"])] == [0, 30, 100, 160]
    assert BagMessage("/i", 0, b"i0") == next(bag_messages(bag, ["/i"]))


def test_a_video_stream_is_followed_from_its_packets(tracker, tmp_path):
    path, topic = tmp_path / "run.mcap", "/camera/video"
    writer = BagWriter(path)
    writer.add_topic(topic, "foxglove_msgs/msg/CompressedVideo")
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = WIDTH, HEIGHT, "yuv420p"
    encoder.time_base, encoder.options = Fraction(1, 30), {"tune": "zerolatency"}
    for index in range(8):
        stamp_ns = START_NS + index * STEP_NS
        frame = av.VideoFrame.from_ndarray(picture(index), format="rgb24")
        frame = frame.reformat(format="yuv420p")
        frame.pts = index
        (packet,) = encoder.encode(frame)
        sec, nanosec = divmod(stamp_ns, 10**9)
        content = {
            "timestamp": {"sec": sec, "nanosec": nanosec},
            "frame_id": "camera",
            "format": "h264",
            "data": np.frombuffer(bytes(packet), np.uint8),
        }
        writer.write(topic, stamp_ns + 1_000_000, content)
    writer.finish()
    reports = follow(path, tracker, [Selection(box(0))], image=topic)
    found = boxes(reports)
    assert list(found) == [START_NS + i * STEP_NS for i in range(1, 8)]
    assert all(iou(found[START_NS + i * STEP_NS], box(i)) > 0.5 for i in range(1, 8))
    times = [given.time_ns for given in reports if given.report.frame is not None]
    assert times == [START_NS + i * STEP_NS + 1_000_000 for i in range(8)]

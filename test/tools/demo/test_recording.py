# SPDX-License-Identifier: Apache-2.0
"""The demo's verdict on what was recorded, without ROS."""

import json

import numpy as np
import pytest

from tools.demo.footage import BOXES_FILE, FootageError, street_scene, synthetic_scene
from tools.demo.pictures import drawn_frames, write_contact_sheet, write_video
from tools.demo.recording import (
    Counters,
    FrameRecord,
    Recording,
    judge,
    judge_return,
    latency_milliseconds,
)
from tracker_ros.following.target_state import TargetState
from tracker_ros.io.sources import open_video

CHECKS = {2: (20.0, 20.0, 40.0, 40.0), 8: (26.0, 20.0, 40.0, 40.0)}


def _record(index, state=TargetState.TRACKING, offset=0.0, held_ns=0):
    box = (18.0 + index + offset, 20.0, 40.0, 40.0)
    return FrameRecord(
        index=index,
        stamp_ns=held_ns or 1_000_000_000 + index * 100_000_000,
        state=state,
        score=0.9,
        latency_s=0.01 * (index + 1),
        target_id="1",
        box=box if state is not TargetState.LOST else None,
        heard_s=index * 0.1,
    )


def _recording(**options):
    idle = FrameRecord(0, 100, TargetState.IDLE)
    return Recording(
        frames=[idle, *(_record(index, **options) for index in range(10))],
        changes=[(100, TargetState.IDLE), (1_000_000_000, TargetState.TRACKING)],
        at_start=Counters(received=5, dropped=1),
        at_end=Counters(received=16, tracked=10, dropped=2),
    )


def test_a_followed_target_passes():
    verdict = judge(_recording(), CHECKS, "test")
    assert verdict["passed"]
    assert verdict["reason"] == ""
    assert verdict["mean_iou"] == 1.0
    assert verdict["frames"] == {
        "in": 11,
        "given_to_tracker": 10,
        "tracked": 10,
        "dropped": 1,
        "rejected": 0,
    }
    assert verdict["rate_hz"] == 10.0
    assert verdict["state_changes"][1]["state"] == "TRACKING"
    assert verdict["latency"]["p50"] == 55.0
    json.dumps(verdict)


def test_a_box_beside_the_target_fails_with_the_overlap_in_the_reason():
    verdict = judge(_recording(offset=30.0), CHECKS, "test")
    assert verdict["mean_iou"] == pytest.approx(400 / 2800, abs=1e-3)
    assert not verdict["passed"]
    assert "0.14" in verdict["reason"]


def _leaving(found_at=7, offset=0.0, lost=True, new_id="1"):
    """Return a recording of a target that is away in frames 3 to 5."""
    recording = _recording(offset=offset)
    away = TargetState.LOST if lost else TargetState.UNCERTAIN
    for record in recording.frames[1:]:
        if 3 <= record.index < found_at:
            record.state, record.box = away, None
        if record.index >= found_at:
            record.target_id = new_id
    return recording


def test_a_target_that_leaves_is_to_be_lost_found_and_the_same():
    def verdict(**options):
        return judge_return(_leaving(**options), CHECKS, "test", (3, 6), 1.0)

    assert verdict()["passed"] and verdict()["found_after_s"] == 1.0
    for options in ({"found_at": 9}, {"offset": 40.0}, {"lost": False}, {"new_id": "2"}):
        assert not verdict(**options)["passed"], options
        assert verdict(**options)["reason"]


def test_too_few_tracked_frames_fail_even_where_the_boxes_fit():
    recording = _recording()
    for record in (recording.frames[1], recording.frames[2]):
        record.state = TargetState.UNCERTAIN
    verdict = judge(recording, CHECKS, "test")
    assert verdict["mean_iou"] == 1.0
    assert "only 80%" in verdict["reason"]


def test_a_silent_target_topic_counts_as_no_overlap():
    recording = _recording()
    recording.frames[3].box = None
    verdict = judge(recording, CHECKS, "test")
    assert [check["iou"] for check in verdict["check_boxes"]] == [0.0, 1.0]


def test_a_frame_left_out_is_judged_by_the_answer_before_it():
    recording = _recording()
    recording.frames[3] = FrameRecord(2, recording.frames[3].stamp_ns)
    verdict = judge(recording, CHECKS, "test")
    # The target moves a pixel a frame: one frame late, 39 of its 41 columns overlap.
    assert verdict["check_boxes"][0]["iou"] == pytest.approx(39 / 41, abs=1e-3)
    assert verdict["frames"]["given_to_tracker"] == 9
    assert judge(recording, {15: CHECKS[8]}, "test")["mean_iou"] == 0.0, "too old to count"


def test_nothing_heard_fails():
    assert judge(Recording(), CHECKS, "test")["reason"] == "the tracker answered no frame"


def test_latency_percentiles_are_milliseconds():
    values = latency_milliseconds(np.linspace(0.0, 0.1, 101))
    assert values == {"p50": 50.0, "p95": 95.0, "p99": 99.0}
    assert latency_milliseconds([]) == {}


def test_pictures_show_every_frame_once_from_the_selection_on(tmp_path):
    recording = _recording()
    recording.frames.insert(1, _record(0, held_ns=200))
    frames = [np.full((96, 128, 3), 10 * index, np.uint8) for index in range(10)]
    shown = [index for _, index, _ in drawn_frames(recording, frames, "cup")]
    assert shown == list(range(10))
    assert write_video(recording, frames, "cup", tmp_path / "demo.mp4", 10) == 10
    with open_video(tmp_path / "demo.mp4") as video:
        assert len(video) == 10
        assert video.size[0] > 128
    write_contact_sheet(recording, frames, CHECKS, "cup", tmp_path / "demo.png")
    with open_video(tmp_path / "*.png") as sheet:
        assert sheet.size == (3 * 384, 288)


def test_the_kept_boxes_lie_in_the_footage_and_in_the_stretch():
    data = json.loads(BOXES_FILE.read_text())
    assert data["frames"] >= 150
    assert len(data["check_boxes"]) >= 5
    assert data["select"]["frame"] == data["first_frame"]
    for entry in [data["select"], *data["check_boxes"]]:
        x, y, w, h = entry["box"]
        assert 0 <= x < x + w <= 768
        assert 0 <= y < y + h <= 576
        assert 0 <= entry["frame"] - data["first_frame"] < data["frames"]


def test_frame_numbers_count_from_the_start_of_the_stretch(tmp_path, monkeypatch):
    monkeypatch.setattr("tools.demo.footage._fetch_clip", lambda data, cache: cache / "vtest.avi")
    data = json.loads(BOXES_FILE.read_text())
    footage = street_scene(tmp_path)
    first = data["first_frame"]
    assert footage.source == f"{tmp_path}/vtest.avi#frames={first}:{first + footage.frames}"
    assert all(0 < index < footage.frames for index in footage.check_boxes)
    assert len(footage.check_boxes) == len(data["check_boxes"])


def test_footage_that_cannot_be_had_says_why(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FootageError, match="apt-get"):
        street_scene(tmp_path / "cache")


def test_synthetic_footage_is_rendered_once_and_knows_its_target(tmp_path):
    footage = synthetic_scene(tmp_path, frames=21)
    with open_video(footage.source) as video:
        assert len(video) == footage.frames == 21
    assert set(footage.check_boxes) <= {20}
    assert footage.first_box[2] > 5
    before = [file.stat().st_mtime_ns for file in sorted(tmp_path.iterdir())]
    assert synthetic_scene(tmp_path, frames=21) == footage
    assert [file.stat().st_mtime_ns for file in sorted(tmp_path.iterdir())] == before

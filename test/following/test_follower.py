# SPDX-License-Identifier: Apache-2.0
"""Tests of the loop, frame by frame: which target sees which frame, and how frames are counted."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
from follower_bench import BOX, SECOND, Bench, Fixed

from tracker_ros.following.follower import Follower
from tracker_ros.following.frames import FaultSource, number_frames
from tracker_ros.following.selection import MAX_LABEL, Selection, SelectionCode
from tracker_ros.following.target_set import MAX_TARGETS, TargetSet
from tracker_ros.following.target_state import StateLimits, TargetState
from tracker_ros.tracker import TrackResult


@pytest.fixture
def bench():
    return Bench()


def test_a_target_selected_on_an_old_frame_catches_up(bench):
    for _ in range(12):
        bench.handle()
    bench.ask(4)
    while bench.follower.catch_up():
        pass
    assert bench.seen() == {"1": list(range(4, 13))}
    bench.handle()
    assert bench.seen() == {"1": list(range(4, 14))}
    shown = [r.frame.number for r in bench.reports if r.frame and r.first.result]
    assert shown == [12, 13], "replayed frames are not reported, the newest one is"


def test_an_added_target_catches_up_while_the_others_go_on(bench):
    bench.arrive()
    assert bench.select(1) == "1"
    for _ in range(3):
        bench.handle()
    assert bench.ask(2, append=True) == "2"
    assert bench.follower.catch_up()
    assert bench.seen() == {"1": [1, 2, 3, 4], "2": [2, 3]}
    bench.arrive()
    assert bench.follower.catch_up()
    assert bench.seen() == {"1": [1, 2, 3, 4, 5], "2": [2, 3, 4]}, "the newest waits for nobody"
    assert bench.follower.catch_up()
    assert bench.seen() == {"1": [1, 2, 3, 4, 5], "2": [2, 3, 4, 5]}
    told = [report.frame.number for report in bench.reports if report.frame]
    assert told == [2, 3, 4, 5], "what is replayed is not reported"
    assert not bench.follower.catch_up()
    bench.handle(2)
    assert bench.seen() == {"1": [1, 2, 3, 4, 5, 7], "2": [2, 3, 4, 5, 7]}
    assert [target.target_id for target in bench.reports[-1].targets] == ["1", "2"]
    assert all(target.result for target in bench.reports[-1].targets)
    assert bench.counts() == {"received": 7, "tracked": 6, "dropped": 1}


def test_both_come_to_the_newest_frame_together(bench):
    bench.arrive()
    bench.select(1)
    bench.handle()
    bench.ask(2, append=True)
    bench.arrive(1)
    assert bench.follower.catch_up()
    assert bench.seen() == {"1": [1, 2, 3], "2": [2, 3]}
    assert [bool(target.result) for target in bench.reports[-1].targets] == [True, True]


def test_a_selection_takes_the_place_of_all_targets_unless_it_adds_one(bench):
    bench.arrive()
    bench.select(1)
    bench.select(1, append=True)
    assert bench.select(1) == "3"
    assert list(bench.states()) == ["3"]
    gone = [report.gone for report in bench.reports if report.gone]
    assert gone == [("1", "2")]


def test_a_refused_addition_leaves_the_others_alone(bench):
    bench.arrive()
    bench.select(1)
    outcome = bench.request(1, (900.0, 900.0, 20.0, 20.0), append=True)[-1]
    assert (outcome.code, outcome.target_id) == (SelectionCode.OUTSIDE_IMAGE, "")
    bench.handle()
    assert bench.seen() == {"1": [1, 2]}


def test_one_target_is_removed_and_the_others_go_on(bench):
    bench.arrive()
    for _ in range(3):
        bench.select(1, append=True)
    assert bench.follower.remove("2").code is SelectionCode.OK
    assert (list(bench.states()), bench.reports[-1].gone) == (["1", "3"], ("2",))
    refused = bench.follower.remove("2")
    assert refused.code is SelectionCode.UNKNOWN_TARGET
    assert refused.message.endswith("followed now: 1, 3")
    bench.handle()
    assert bench.seen() == {"1": [1, 2], "3": [1, 2]}
    assert bench.follower.clear().code is SelectionCode.OK
    assert (bench.states(), bench.reports[-1].gone) == ({"": TargetState.IDLE}, ("1", "3"))
    assert bench.follower.clear().code is SelectionCode.OK
    assert bench.follower.remove("1").code is SelectionCode.UNKNOWN_TARGET


def test_a_removed_target_is_no_longer_replayed(bench):
    bench.arrive(3)
    bench.ask(1)
    bench.ask(1, append=True)
    bench.follower.remove("1")
    while bench.follower.catch_up():
        pass
    assert bench.seen() == {"2": [1, 2, 3]}


def test_each_target_has_a_state_of_its_own(bench):
    bench.arrive()
    bench.select(1)
    bench.select(1, append=True)
    first, second = (target.tracker for target in bench.targets)
    assert first is not second
    second.score = 0.1
    bench.handle()
    assert bench.states() == {"1": TargetState.TRACKING, "2": TargetState.UNCERTAIN}
    for _ in range(2):
        bench.handle()
    assert bench.states() == {"1": TargetState.TRACKING, "2": TargetState.LOST}
    second.score = 0.9
    bench.handle()
    assert bench.states() == {"1": TargetState.TRACKING, "2": TargetState.TRACKING}
    bench.follower.enable(False)
    assert bench.states() == {"1": TargetState.IDLE, "2": TargetState.IDLE}
    bench.handle()
    bench.follower.enable(True)
    bench.handle()
    assert bench.states() == {"1": TargetState.TRACKING, "2": TargetState.TRACKING}


def test_a_tracker_that_fails_costs_only_its_own_target(bench):
    bench.arrive()
    bench.select(1)
    bench.select(1, append=True)
    next(iter(bench.targets)).tracker.fails = True
    bench.handle()
    first, second = bench.reports[-1].targets
    assert first.result is None
    assert second.result is not None
    source, text = bench.complaints[-1]
    assert source is FaultSource.MODEL
    assert "target 1: RuntimeError('no box today')" in text
    assert bench.counts() == {"received": 2, "tracked": 2, "faults": 1}
    bench.handle(2)
    assert bench.states() == {"1": TargetState.LOST, "2": TargetState.TRACKING}


def test_a_slow_replay_leaves_frames_out_and_ends(bench, monkeypatch):
    bench.arrive()
    bench.select(1)
    for _ in range(29):
        bench.handle()

    def takes():
        bench.now += 2.0

    monkeypatch.setattr(Fixed, "takes", staticmethod(takes))
    bench.ask(1, append=True)
    while bench.follower.catch_up():
        assert bench.buffer.arrivals < 64
        bench.arrive(4)  # a step takes two seconds for each tracker
    first, added = bench.seen().values()
    assert added == sorted(added)
    assert len(added) < 15
    assert added[-1] == first[-1]


def test_images_pass_by_while_nothing_is_followed(bench):
    bench.handle()
    bench.handle(3)
    assert bench.counts() == {"received": 4, "idle": 2, "dropped": 2}


def test_what_is_replayed_was_counted_when_it_came(bench):
    for _ in range(4):
        bench.handle()
    bench.select(2)
    assert bench.counts() == {"received": 4, "idle": 4}
    bench.handle(2)
    assert bench.counts() == {"received": 6, "idle": 4, "dropped": 1, "tracked": 1}


def test_what_comes_during_a_replay_is_counted_by_it(bench):
    bench.handle()
    bench.arrive(3)
    bench.select(2)
    assert bench.counts() == {"received": 4, "idle": 1, "tracked": 3}
    newest = bench.buffer.frames[-1]
    bench.follower.handle(newest)
    assert bench.counts()["received"] == 4, "the replay was there already"


def test_an_image_that_gives_nothing_is_rejected(bench):
    bench.arrive()
    bench.select(1)
    bench.handle(readable=False)
    bench.tracker.fails = True
    bench.handle(2)
    assert bench.counts() == {
        "received": 4, "tracked": 1, "rejected": 2, "dropped": 1, "faults": 1,
    }  # fmt: skip


def test_a_pause_and_a_fresh_start(bench):
    bench.arrive()
    bench.select(1)
    bench.follower.enable(False)
    bench.handle()
    assert bench.counts() == {"received": 2, "tracked": 1, "idle": 1}
    bench.arrive(2)
    bench.follower.reset()
    assert bench.counts() == {}
    bench.handle(2)
    assert bench.counts() == {"received": 2, "dropped": 1, "idle": 1}


def codes(bench):
    return [outcome.code.name for outcome in bench.outcomes]


def test_a_fresh_start_frees_what_the_model_can_make_again(bench):
    trimmed = []
    bench.tracker.trim = lambda: trimmed.append(len(bench.targets))
    bench.arrive()
    bench.select(1)
    bench.follower.clear()
    assert not trimmed, "the next selection may need it"
    bench.follower.reset()
    assert trimmed == [0]


def test_a_request_ahead_of_its_frame_waits_while_others_are_tracked(bench):
    bench.arrive()
    bench.select(1)
    bench.request(1.95, append=True)
    assert not bench.follower.catch_up()
    bench.handle(step_s=0.5)
    assert codes(bench) == ["OK"]
    assert bench.seen() == {"1": [1, 2]}
    newest = bench.arrive(step_s=0.5)
    assert bench.follower.catch_up()
    assert codes(bench) == ["OK", "OK"]
    assert (bench.outcomes[-1].target_id, bench.outcomes[-1].stamp_ns) == ("2", 2 * SECOND)
    bench.follower.handle(newest)
    assert bench.seen() == {"1": [1, 2, 3], "2": [3, 3]}


def test_a_request_whose_frame_does_not_come_is_refused_in_time(bench):
    bench.arrive()
    bench.request(1.9)
    bench.follower.catch_up()
    assert codes(bench) == []
    bench.now += 0.6
    bench.follower.catch_up()
    assert codes(bench) == ["FUTURE_STAMP"]
    bench.request(1.05)
    bench.now += 0.6
    bench.follower.catch_up()
    assert codes(bench) == ["FUTURE_STAMP", "OK"], "the nearest frame is near enough"


def test_a_request_far_ahead_is_refused_at_once(bench):
    bench.arrive()
    bench.request(101)
    assert codes(bench) == ["FUTURE_STAMP"]


def test_requests_that_wait_keep_their_order_and_a_plain_one_replaces_them(bench):
    bench.arrive()
    bench.request(1.95)
    bench.request(1, append=True)
    assert codes(bench) == [], "the second one adds to the first"
    bench.arrive()
    bench.follower.catch_up()
    assert codes(bench) == ["OK", "OK"]
    assert bench.targets.ids == ("1", "2")
    while bench.follower.catch_up():
        pass
    bench.request(2.95)
    bench.request(2.5, (0.0, 0.0, 0.0, 0.0))
    assert codes(bench)[2:] == ["INVALID_BOX"], "it replaces nothing"
    bench.request(2)
    assert codes(bench)[2:] == ["INVALID_BOX", "INTERRUPTED", "OK"]
    assert bench.targets.ids == ("3",)


@pytest.mark.parametrize("end", ["clear", "reset", "unload"])
def test_requests_that_wait_are_answered_when_tracking_ends(bench, end):
    bench.arrive()
    bench.request(1.95)
    getattr(bench.follower, end)()
    assert codes(bench) == ["INTERRUPTED"]
    bench.arrive()
    bench.follower.catch_up()
    assert codes(bench) == ["INTERRUPTED"]


def test_only_so_many_requests_wait(bench):
    bench.arrive()
    for _ in range(MAX_TARGETS + 1):
        bench.request(1.95, append=True)
    assert codes(bench) == ["BUSY"]


MASK = np.zeros((48, 64), bool)
MASK[10:20, 10:30] = True


@pytest.mark.parametrize(
    ("request_for", "code"),
    [
        ({"box": (1.0, 2.0, float("nan"), 9.0)}, "INVALID_BOX"),
        ({"box": (1.0, 2.0, 0.0, 9.0)}, "INVALID_BOX"),
        ({"box": (1.0, 2.0, -9.0, 9.0)}, "INVALID_BOX"),
        ({"box": (1.0, 2.0, 3.5, 9.0)}, "INVALID_BOX"),
        ({"box": (-5.0, 2.0, 66.0, 9.0)}, "INVALID_BOX"),
        ({"box": (70.0, 2.0, 9.0, 9.0)}, "OUTSIDE_IMAGE"),
        ({"box": (5.0, -9.0, 9.0, 9.0)}, "OUTSIDE_IMAGE"),
        ({"box": (62.0, 2.0, 9.0, 9.0)}, "OUTSIDE_IMAGE"),
        ({"box": None, "mask": np.zeros((48, 64), bool)}, "INVALID_MASK"),
        ({"box": None, "mask": MASK & (np.arange(64) < 13)}, "INVALID_MASK"),
        ({"box": None, "mask": MASK[:40]}, "INVALID_MASK"),
        ({"frame_id": "map"}, "WRONG_FRAME_ID"),
        ({"frame_id": "\n" * 10**6}, "WRONG_FRAME_ID"),
        ({"label": "x" * (MAX_LABEL + 1)}, "INVALID_LABEL"),
        ({"label": "cup\n[FATAL] no cup"}, "INVALID_LABEL"),
        ({"label": "\x1b[2J"}, "INVALID_LABEL"),
        ({"label": "x" * 10**6, "box": None, "mask": MASK}, "INVALID_LABEL"),
        ({"second": 1}, "STALE_STAMP"),
        ({"second": 3.5}, "UNKNOWN_STAMP"),
        ({"second": 9}, "FUTURE_STAMP"),
    ],
)
def test_a_refused_request_has_a_code_and_keeps_the_target(bench, request_for, code):
    bench.arrive(4)
    bench.buffer.set_limits(2.0, 10_000_000)
    bench.select(4)
    bench.request(**request_for)
    assert codes(bench) == ["OK", code]
    assert bench.outcomes[-1].target_id == ""
    assert 20 < len(bench.outcomes[-1].message) < 400
    assert bench.outcomes[-1].message.isprintable()
    bench.handle()
    assert bench.seen() == {"1": [4, 5]}


@pytest.mark.parametrize(
    ("box", "seconds"), [((-2.0, 0.0, 65.0, 49.0), 0), ((60.0, 2.0, 9.0, 9.0), 1), (BOX, 0.95)]
)
def test_a_request_at_the_limits_is_accepted(bench, box, seconds):
    bench.arrive()
    label = "Tasse 杯 " * 16
    bench.request(seconds, box, frame_id="camera", label=label)
    assert codes(bench) == ["OK"]
    assert [target.label for target in bench.targets] == [label]
    assert len(label) == MAX_LABEL


def test_requests_are_refused_while_nothing_can_be_tracked(bench):
    bench.request()
    bench.arrive(readable=False)
    bench.request()
    bench.arrive()
    bench.follower.enable(False)
    bench.request()
    bench.follower.enable(True)
    bench.tracker.fails = True
    bench.request()
    bench.follower.unload()
    bench.request()

    def load():
        raise OSError("no weights")

    with pytest.raises(OSError, match="no weights"):
        bench.follower.load(load)
    assert bench.states() == {"": TargetState.LOADING}
    bench.follower.loaded()
    assert bench.states() == {"": TargetState.IDLE}
    assert codes(bench) == [
        "NO_IMAGE", "UNREADABLE_IMAGE", "PAUSED", "MODEL_FAILED", "NOT_ACTIVE",
    ]  # fmt: skip
    assert bench.follower.counts.faults == 1


def test_new_limits_reach_the_targets(bench):
    bench.arrive()
    bench.select(1)
    bench.follower.set_limits(StateLimits(0.95, 0.91, 5.0))
    bench.handle()
    assert bench.states() == {"1": TargetState.UNCERTAIN}


def test_a_silent_camera_loses_the_targets(bench):
    bench.arrive()
    bench.select(1)
    bench.now += 0.4
    bench.follower.note_silence()
    assert bench.states() == {"1": TargetState.TRACKING}
    bench.now += 1.0
    bench.follower.note_silence()
    assert bench.states() == {"1": TargetState.LOST}
    bench.handle()
    assert bench.states() == {"1": TargetState.TRACKING}


def test_the_model_is_updated_after_the_report_and_both_are_timed(bench):
    class Learner(Fixed):
        """Takes two seconds to track and one to update."""

        def track(self, image):
            bench.now += 2.0
            return super().track(image)

        def update_model(self):
            bench.now += 1.0
            reported.append(bench.reports[-1].frame.number)

    reported = []
    learner = Learner()
    bench.follower.load(lambda: learner)
    bench.arrive()
    bench.select(1)
    report = bench.handle()
    assert reported == [2]
    assert (report.processing_time, bench.follower.tracking_seconds) == (2.0, 3.0)


def test_a_model_that_cannot_be_updated_is_a_fault_and_tracks_on(bench, monkeypatch):
    bench.arrive()
    bench.select(1)

    def fail(tracker):
        raise RuntimeError("nothing to learn")

    monkeypatch.setattr(Fixed, "update_model", fail)
    bench.handle()
    assert "nothing to learn" in bench.complaints[-1][1]
    assert bench.follower.counts.faults == 1
    bench.handle()
    assert bench.seen() == {"1": [1, 2, 3]}


def test_a_video_is_followed_without_a_buffer():
    tracker = Fixed()
    follower = Follower(lambda pixels: pixels, TargetSet(tracker=tracker))
    video = [np.full((48, 64, 3), value, np.uint8) for value in (7, 8, 9)]
    reports = list(follower.follow(Selection(BOX), number_frames(video, fps=10.0)))
    assert tracker.seen == [7, 8, 9]
    assert [report.frame.number for report in reports] == [1, 2, 3]
    assert [report.frame.time_s for report in reports] == [0.0, 0.1, 0.2]
    assert [report.first.result.score for report in reports] == [1.0, 0.9, 0.9]
    assert reports[0].first.result.box == BOX
    assert {report.first.target_id for report in reports} == {"1"}


def test_in_a_video_errors_are_raised():
    tracker = Fixed()
    follower = Follower(lambda pixels: pixels, TargetSet(tracker=tracker))
    video = number_frames([np.zeros((48, 64, 3), np.uint8)] * 3)
    reports = follower.follow(Selection(BOX), video)
    next(reports)
    tracker.fails = True
    with pytest.raises(RuntimeError, match="no box today"):
        next(reports)
    with pytest.raises(RuntimeError, match="no box today"):
        next(follower.follow(Selection(BOX), video))


@pytest.mark.parametrize(
    "result",
    [
        TrackResult((np.nan, 10.0, 20.0, 20.0), 0.9, None, BOX),
        TrackResult((10.0, np.inf, 20.0, 20.0), 0.9, None, BOX),
        TrackResult((10.0, 10.0, 0.0, 20.0), 0.9, None, BOX),
        TrackResult(BOX, np.nan, None, BOX),
        TrackResult(BOX, 1.5, None, BOX),
        TrackResult(BOX, -0.1, None, BOX),
        TrackResult(BOX, 0.9, None, BOX, mask=np.ones((3, 4), bool)),
    ],
)
def test_a_result_that_nothing_should_act_on_is_a_fault_of_the_model(bench, monkeypatch, result):
    bench.arrive()
    bench.select(1)
    with monkeypatch.context() as change:
        change.setattr(bench.tracker, "track", lambda image: result)
        bench.handle()
    assert bench.reports[-1].first.result is None
    assert bench.complaints[-1][0] is FaultSource.MODEL
    assert bench.counts()["faults"] == 1
    bench.handle()
    assert bench.reports[-1].first.result.box == BOX
    assert bench.complaints[-1] == (FaultSource.MODEL, "")


def test_a_batch_that_fails_as_a_whole_is_a_fault_of_each_target(bench, monkeypatch):
    def fail(others, image):
        raise MemoryError("no room for a batch")

    bench.arrive()
    bench.select(1)
    bench.select(1, append=True)
    monkeypatch.setattr(bench.tracker, "track_batch", fail)
    bench.handle()
    assert [target.result for target in bench.reports[-1].targets] == [None, None]
    assert bench.counts()["faults"] == 2


def test_a_failure_of_the_model_keeps_no_image():
    """Images of 6 MB add up long before Python looks for objects that refer to each other."""
    images = []

    class Watched(Bench):
        def decode(self, payload):
            image = super().decode(payload)
            images.append(weakref.ref(image))
            return image

    bench = Watched()
    bench.arrive()
    bench.select(1)
    gc.collect()
    gc.disable()
    try:
        for bench.tracker.fails in (True, True, False):
            bench.handle()
        bench.reports.clear()
        assert [image() is None for image in images] == [True] * 4
    finally:
        gc.enable()


def test_a_bad_image_is_not_blamed_on_the_model(bench):
    bench.arrive()
    bench.select(1)
    bench.handle(readable=False)
    assert [source for source, text in bench.complaints if text] == [FaultSource.IMAGE]
    bench.handle()
    assert bench.complaints[-2:] == [(FaultSource.IMAGE, ""), (FaultSource.MODEL, "")]


def test_catching_up_never_waits(bench, monkeypatch):
    """A request ahead of its frame is left for later, whatever else there is to do."""

    def sleep(seconds):
        pytest.fail("the worker slept")

    monkeypatch.setattr("time.sleep", sleep)
    bench.arrive()
    bench.select(1)
    for _ in range(20):
        bench.request(bench.stamp_s + 0.9)
        frame = bench.arrive(step_s=0.1)
        assert not bench.follower.catch_up()
        assert bench.follower.handle(frame).first.result is not None
    codes = [outcome.code for outcome in bench.outcomes[1:]]
    assert codes == [SelectionCode.INTERRUPTED] * 19, "one request waits, newer ones replace it"


def test_a_stream_of_late_selections_does_not_keep_a_target_from_catching_up(bench):
    """A slow detector selects ten times a second, on frames a second old; a step takes 20 ms."""

    def takes():
        bench.now += 0.02

    bench.tracker.takes = takes
    bench.arrive(30, step_s=1 / 30)
    for _ in range(40):
        bench.request(bench.stamp_s - 0.9)
        bench.arrive(3, step_s=1 / 30)
        until = bench.now + 0.1
        while bench.now < until:
            if not bench.follower.catch_up():
                bench.follower.handle(bench.buffer.frames[-1])
                bench.now = until
    bench.follower.catch_up()
    told = [report for report in bench.reports if report.frame and report.first.result]
    assert len(told) >= 8
    assert len(bench.outcomes) >= 39, "one waits, newer ones replace it"
    assert {o.code for o in bench.outcomes} == {SelectionCode.OK, SelectionCode.INTERRUPTED}

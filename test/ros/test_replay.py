# SPDX-License-Identifier: Apache-2.0
"""Several targets frame by frame: who sees which frame, and whose trouble is whose."""

from __future__ import annotations

import time

import pytest
from follower_bench import Bench

from tracker_ros.following import follower as replay
from tracker_ros.following.selection import Selection
from tracker_ros.following.target_state import TargetState


@pytest.fixture
def bench(make_message, monkeypatch):
    monkeypatch.setattr(replay, "_SHORT_S", 60.0)  # however busy this machine is
    return Bench(make_message)


def states(bench):
    return {target.target_id: target.state for target in bench.reports[-1].targets}


def test_an_added_target_catches_up_while_the_others_go_on(bench):
    bench.arrive()
    assert bench.select(1) == "1"
    for _ in range(3):
        bench.follower.process(bench.arrive())
    assert bench.ask(2, append=True) == "2"
    assert bench.follower.catch_up()
    assert bench.seen() == {"1": [1, 2, 3, 4], "2": [2, 3]}
    bench.arrive()
    assert bench.follower.catch_up()
    assert bench.seen() == {"1": [1, 2, 3, 4, 5], "2": [2, 3, 4]}, "the newest waits for nobody"
    assert bench.follower.catch_up()
    assert bench.seen() == {"1": [1, 2, 3, 4, 5], "2": [2, 3, 4, 5]}
    told = [report.header.stamp.sec for report in bench.reports if report.header]
    assert told == [2, 3, 4, 5], "what is replayed is not reported"
    assert not bench.follower.catch_up()
    bench.follower.process(bench.arrive(2))
    assert bench.seen() == {"1": [1, 2, 3, 4, 5, 7], "2": [2, 3, 4, 5, 7]}
    assert [target.target_id for target in bench.reports[-1].targets] == ["1", "2"]
    assert all(target.result for target in bench.reports[-1].targets)
    assert bench.counts() == {"received": 7, "tracked": 6, "dropped": 1}


def test_both_come_to_the_newest_frame_together(bench):
    bench.arrive()
    bench.select(1)
    bench.follower.process(bench.arrive())
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
    assert list(states(bench)) == ["3"]
    gone = [report.gone for report in bench.reports if report.gone]
    assert gone == [("1", "2")]


def test_a_refused_addition_leaves_the_others_alone(bench):
    bench.arrive()
    bench.select(1)
    refused = bench.follower.select(
        Selection(10**9, "", (900.0, 900.0, 20.0, 20.0), "", append=True)
    )
    assert not refused.success
    bench.follower.process(bench.arrive())
    assert bench.seen() == {"1": [1, 2]}


def test_one_target_is_removed_and_the_others_go_on(bench):
    bench.arrive()
    for _ in range(3):
        bench.select(1, append=True)
    assert bench.follower.remove("2") == (True, "target 2 removed")
    assert (list(states(bench)), bench.reports[-1].gone) == (["1", "3"], ("2",))
    found, text = bench.follower.remove("2")
    assert not found
    assert text == "there is no target '2'; followed now: 1, 3"
    bench.follower.process(bench.arrive())
    assert bench.seen() == {"1": [1, 2], "3": [1, 2]}
    assert bench.follower.clear() == ["1", "3"]
    assert states(bench) == {"": TargetState.IDLE}
    assert bench.follower.remove("1") == (False, "there is no target '1'; followed now: none")


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
    first, second = (target.tracker for target in bench.targets.targets)
    assert first is not second
    second.score = 0.1
    bench.follower.process(bench.arrive())
    assert states(bench) == {"1": TargetState.TRACKING, "2": TargetState.UNCERTAIN}
    for _ in range(2):
        bench.follower.process(bench.arrive())
    assert states(bench) == {"1": TargetState.TRACKING, "2": TargetState.LOST}
    second.score = 0.9
    bench.follower.process(bench.arrive())
    assert states(bench) == {"1": TargetState.TRACKING, "2": TargetState.TRACKING}
    bench.follower.enable(False)
    assert states(bench) == {"1": TargetState.IDLE, "2": TargetState.IDLE}
    bench.follower.process(bench.arrive())
    bench.follower.enable(True)
    bench.follower.process(bench.arrive())
    assert states(bench) == {"1": TargetState.TRACKING, "2": TargetState.TRACKING}


def test_a_tracker_that_fails_costs_only_its_own_target(bench):
    complaints = []
    bench.follower._complain = complaints.append
    bench.arrive()
    bench.select(1)
    bench.select(1, append=True)
    bench.targets.targets[0].tracker.fails = True
    bench.follower.process(bench.arrive())
    first, second = bench.reports[-1].targets
    assert first.result is None
    assert second.result is not None
    assert "target 1: RuntimeError('no box today')" in complaints[-1]
    assert bench.counts() == {"received": 2, "tracked": 2, "faults": 1}
    bench.follower.process(bench.arrive(2))
    assert states(bench) == {"1": TargetState.LOST, "2": TargetState.TRACKING}


def test_a_slow_replay_leaves_frames_out_and_ends(bench, monkeypatch):
    monkeypatch.undo()
    clock = [time.monotonic()]
    monkeypatch.setattr(replay.time, "monotonic", lambda: clock[0])
    bench.arrive()
    bench.select(1)
    for _ in range(29):
        bench.follower.process(bench.arrive())

    def takes():
        clock[0] += 2.0

    monkeypatch.setattr(type(bench.tracker), "takes", staticmethod(takes))
    bench.ask(1, append=True)
    bench.follower.catch_up()
    while bench.follower._replays:
        assert bench.buffer.arrivals < 60
        bench.arrive(4)  # a step takes two seconds for each tracker
        bench.follower.catch_up()
    first, added = bench.seen().values()
    assert added == sorted(added)
    assert added[-1] == first[-1] == bench.buffer.arrivals

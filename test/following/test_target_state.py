# SPDX-License-Identifier: Apache-2.0
"""Tests of the target's state machine."""

from __future__ import annotations

import math

import pytest

from tracker_ros.following.target_state import StateLimits, TargetState, TargetStateMachine
from tracker_ros.tracker import Verdict


def machine(**limits: float) -> TargetStateMachine:
    """Return a machine with round thresholds whose target was selected at t = 0."""
    values = {"score_found": 0.6, "score_lost": 0.3, "lost_after": 1.0, **limits}
    return TargetStateMachine(0.0, StateLimits(**values))


def run(target: TargetStateMachine, scores: list[float], step: float = 0.1) -> list[str]:
    """Feed one score per ``step`` seconds and return the states' names."""
    return [target.update(s, (i + 1) * step).name for i, s in enumerate(scores)]


def test_numbers_are_those_of_the_message():
    assert [(s.name, s.value) for s in TargetState] == [
        ("IDLE", 0),
        ("LOADING", 1),
        ("TRACKING", 2),
        ("UNCERTAIN", 3),
        ("LOST", 4),
    ]


def test_scores_between_the_thresholds_change_nothing():
    tracked = machine()
    assert run(tracked, [0.5, 0.35, 0.59, 0.31]) == ["TRACKING"] * 4
    assert run(tracked, [0.1, 0.5, 0.5, 0.6]) == [
        "UNCERTAIN",
        "UNCERTAIN",
        "UNCERTAIN",
        "TRACKING",
    ]


def test_flicker_around_one_threshold_gives_one_change():
    target = machine()
    states = run(target, [0.29, 0.31, 0.29, 0.31, 0.29, 0.31])
    assert states == ["UNCERTAIN"] * 6


def test_lost_only_after_the_time_and_found_only_at_the_upper_score():
    target = machine()
    states = run(target, [0.9, 0.1] + [0.1] * 10)
    assert states[1:11] == ["UNCERTAIN"] * 10
    assert states[11] == "LOST"
    assert target.seconds_since_seen == pytest.approx(1.1)
    assert target.update(0.59, 1.3) is TargetState.LOST
    assert target.seconds_since_seen == pytest.approx(1.2)
    assert target.update(0.6, 1.4) is TargetState.TRACKING
    assert target.seconds_since_seen == 0.0


def test_weak_sight_keeps_an_uncertain_target_from_being_lost():
    target = machine()
    assert run(target, [0.1] + [0.4] * 30)[-1] == "UNCERTAIN"


@pytest.mark.parametrize("verdict", [Verdict.NOT_FOUND, Verdict.UNCERTAIN])
def test_a_trackers_doubt_overrules_a_high_score(verdict):
    target = machine()
    assert target.update(0.99, 0.1, verdict) is TargetState.UNCERTAIN


@pytest.mark.parametrize("verdict", [Verdict.NORMAL, Verdict.HARD_NEGATIVE])
def test_a_trackers_certainty_overrules_a_low_score(verdict):
    target = machine()
    run(target, [0.1] * 12)
    assert target.state is TargetState.LOST
    assert target.update(0.2, 2.0, verdict) is TargetState.TRACKING


def test_not_found_leads_to_lost_and_uncertain_does_not():
    absent, doubtful = machine(), machine()
    for i in range(1, 20):
        absent.update(0.99, i * 0.1, Verdict.NOT_FOUND)
        doubtful.update(0.99, i * 0.1, Verdict.UNCERTAIN)
    assert absent.state is TargetState.LOST
    assert doubtful.state is TargetState.UNCERTAIN


@pytest.mark.parametrize("verdict", [None, Verdict.NORMAL])
@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_no_number_means_not_seen(score, verdict):
    target = machine()
    assert target.update(score, 0.1, verdict) is TargetState.UNCERTAIN
    assert target.score == 0.0


def test_a_clock_that_jumps_back_keeps_the_elapsed_time():
    target = machine()
    target.update(0.1, 100.0 - 99.5)
    assert target.seconds_since_seen == pytest.approx(0.5)
    target.update(0.1, -50.0)
    assert target.state is TargetState.UNCERTAIN
    assert target.seconds_since_seen == pytest.approx(0.5)
    target.update(0.1, -49.4)
    assert target.state is TargetState.LOST


def test_frames_that_do_not_come_lose_the_target():
    target = machine()
    target.update(0.9, 0.1)
    assert target.no_frame(1.0) is TargetState.TRACKING
    assert target.no_frame(1.2) is TargetState.LOST
    assert target.update(0.9, 1.3) is TargetState.TRACKING


def test_pause_keeps_the_target_and_its_time_does_not_count():
    target = machine()
    target.pause()
    assert (target.state, target.score) == (TargetState.IDLE, 0.0)
    assert target.update(0.9, 5.0) is TargetState.IDLE
    assert target.no_frame(90.0) is TargetState.IDLE
    target.resume()
    assert target.state is TargetState.UNCERTAIN
    assert target.update(0.1, 100.0) is TargetState.UNCERTAIN
    assert target.update(0.9, 100.1) is TargetState.TRACKING


def test_resume_without_a_pause_changes_nothing():
    target = machine()
    target.resume()
    assert target.state is TargetState.TRACKING


def test_new_limits_apply_from_the_next_update_on():
    target = machine()
    target.limits = StateLimits(0.9, 0.8, 5.0)
    assert target.state is TargetState.TRACKING
    assert target.update(0.7, 1.0) is TargetState.UNCERTAIN


@pytest.mark.parametrize(
    ("limits", "word"),
    [
        ({"score_found": 1.2}, "score_found"),
        ({"score_lost": -0.1}, "score_lost"),
        ({"score_found": math.nan}, "score_found"),
        ({"score_lost": 0.7}, "score_lost"),
        ({"lost_after": -1.0}, "lost_after"),
        ({"lost_after": math.inf}, "lost_after"),
    ],
)
def test_bad_limits_are_named(limits, word):
    with pytest.raises(ValueError, match=word):
        machine(**limits)

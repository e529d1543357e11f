# SPDX-License-Identifier: Apache-2.0
"""Tests of the target's state machine."""

from __future__ import annotations

import math

import pytest

from tracker_ros.following.target_state import TargetState, TargetStateMachine
from tracker_ros.tracker import Verdict


def machine(**limits: float) -> TargetStateMachine:
    """A machine with round thresholds, following a target since t = 0."""
    values = {"score_found": 0.6, "score_lost": 0.3, "lost_after": 1.0, **limits}
    result = TargetStateMachine(**values)
    result.select(0.0, "cup")
    return result


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


def test_idle_until_selected_and_after_clear():
    target = TargetStateMachine()
    assert target.state is TargetState.IDLE
    assert target.update(0.9, 1.0) is TargetState.IDLE
    target.select(1.0)
    assert target.state is TargetState.TRACKING
    target.clear()
    assert (target.state, target.target_id, target.score) == (TargetState.IDLE, "", 0.0)


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
    identity = target.target_id
    assert target.update(0.6, 1.4) is TargetState.TRACKING
    assert target.target_id == identity
    assert target.seconds_since_seen == 0.0


def test_weak_sight_keeps_an_uncertain_target_from_being_lost():
    target = machine()
    assert run(target, [0.1] + [0.4] * 30)[-1] == "UNCERTAIN"


def test_every_selection_gets_a_new_id():
    target = machine()
    first = target.target_id
    second = target.select(5.0)
    target.clear()
    third = target.select(6.0)
    assert len({first, second, third}) == 3
    assert "" not in {first, second, third}


def test_a_new_selection_drops_the_old_label():
    target = machine()
    assert target.label == "cup"
    target.select(1.0)
    assert target.label == ""


@pytest.mark.parametrize("flag", [Verdict.NOT_FOUND, Verdict.UNCERTAIN])
def test_a_trackers_doubt_overrules_a_high_score(flag):
    target = machine()
    assert target.update(0.99, 0.1, flag) is TargetState.UNCERTAIN


@pytest.mark.parametrize("flag", [Verdict.NORMAL, Verdict.HARD_NEGATIVE])
def test_a_trackers_certainty_overrules_a_low_score(flag):
    target = machine()
    run(target, [0.1] * 12)
    assert target.state is TargetState.LOST
    assert target.update(0.2, 2.0, flag) is TargetState.TRACKING


def test_not_found_leads_to_lost_and_uncertain_does_not():
    absent, doubtful = machine(), machine()
    for i in range(1, 20):
        absent.update(0.99, i * 0.1, Verdict.NOT_FOUND)
        doubtful.update(0.99, i * 0.1, Verdict.UNCERTAIN)
    assert absent.state is TargetState.LOST
    assert doubtful.state is TargetState.UNCERTAIN


@pytest.mark.parametrize("flag", [None, Verdict.NORMAL])
@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_no_number_means_not_seen(score, flag):
    target = machine()
    assert target.update(score, 0.1, flag) is TargetState.UNCERTAIN
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
    identity = target.target_id
    target.pause()
    assert target.state is TargetState.IDLE
    assert target.update(0.9, 5.0) is TargetState.IDLE
    assert target.no_frame(90.0) is TargetState.IDLE
    target.resume()
    assert target.state is TargetState.UNCERTAIN
    assert target.update(0.1, 100.0) is TargetState.UNCERTAIN
    assert target.update(0.9, 100.1) is TargetState.TRACKING
    assert target.target_id == identity


def test_resume_without_a_target_stays_idle():
    target = TargetStateMachine()
    target.pause()
    target.resume()
    assert target.state is TargetState.IDLE


def test_loading_forgets_the_target_and_ends_idle():
    target = machine()
    target.loading()
    assert (target.state, target.target_id) == (TargetState.LOADING, "")
    target.loaded()
    assert target.state is TargetState.IDLE


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
def test_bad_limits_are_named_and_the_old_ones_stay(limits, word):
    with pytest.raises(ValueError, match=word):
        machine(**limits)
    target = machine()
    with pytest.raises(ValueError, match=word):
        target.set_limits(**{"score_found": 0.6, "score_lost": 0.3, "lost_after": 1.0, **limits})
    assert run(target, [0.31, 0.29]) == ["TRACKING", "UNCERTAIN"]

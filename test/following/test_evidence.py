# SPDX-License-Identifier: Apache-2.0
"""Tests of the evidence for and against a result, and of what a target makes of it."""

from __future__ import annotations

import numpy as np
import pytest

from tracker_ros.calibration import EVIDENCE, Calibration
from tracker_ros.following.evidence import EvidenceCollector, rival_share
from tracker_ros.following.follower import Follower
from tracker_ros.following.frames import number_frames
from tracker_ros.following.selection import Selection
from tracker_ros.following.target_set import TargetSet
from tracker_ros.following.target_state import Doubt, StateLimits, TargetState
from tracker_ros.tracker import Tracker, TrackResult, Verdict

BOX = (40.0, 30.0, 20.0, 16.0)
OTHER = (100.0, 60.0, 20.0, 16.0)
CALIBRATION = Calibration(
    -4.0,
    {"score": 1.0, "rival": -4.0, "jump": -8.0, "growth": -6.0, "likeness": 6.0},
    {"score": 2.2, "likeness": 1.0},
)


def picture(place=BOX) -> np.ndarray:
    """A grey ground with one coloured pattern on it."""
    pattern = np.random.default_rng(1).integers(0, 255, (16, 20, 3), dtype=np.uint8)
    image = np.full((120, 160, 3), 128, np.uint8)
    x, y = int(place[0]), int(place[1])
    image[y : y + 16, x : x + 20] = pattern
    return image


def result(box=BOX, score=0.9, score_map=None, verdict=None) -> TrackResult:
    return TrackResult(box, score, score_map, (0.0, 0.0, 160.0, 120.0), verdict=verdict)


class Scripted(Tracker):
    """Returns the results that it is given."""

    def __init__(self) -> None:
        self.results: list[TrackResult] = []
        self.calibration = CALIBRATION

    def initialize(self, image, box):
        pass

    def track(self, image):
        return self.results.pop(0)

    def warm_up(self):
        pass


def test_all_evidence_is_collected_and_the_unchanged_target_speaks_for_itself():
    evidence = EvidenceCollector(picture(), BOX).collect(picture(), result())
    assert set(evidence) == set(EVIDENCE)
    assert evidence["likeness"] == pytest.approx(1.0)
    assert evidence["likeness_first"] == pytest.approx(1.0)
    assert evidence["colour"] == pytest.approx(1.0)
    assert evidence["jump"] == evidence["growth"] == evidence["edge"] == 0.0


def test_another_place_is_unlike_and_a_jump():
    evidence = EvidenceCollector(picture(), BOX).collect(picture(), result(OTHER))
    assert evidence["likeness"] < 0.3
    assert evidence["jump"] > 1.0


def test_growth_is_measured_against_the_usual_size():
    collector = EvidenceCollector(picture(), BOX)
    grown = (30.0, 22.0, 40.0, 32.0)
    growths = [collector.collect(picture(), result(grown))["growth"] for _ in range(3)]
    assert growths[0] == pytest.approx(np.log(4.0))
    assert growths[1] == pytest.approx(np.log(4.0) / 2), "the median of both sizes"
    assert growths[2] == pytest.approx(0.0)


def test_a_later_sure_look_is_known_but_not_the_first():
    collector = EvidenceCollector(picture(), BOX)
    inverted = 255 - picture()
    for _ in range(6):
        seen = collector.collect(inverted, result())
    assert seen["likeness"] == pytest.approx(1.0)
    assert seen["likeness_first"] < -0.9


@pytest.mark.parametrize("box", [(-30.0, 10.0, 20.0, 16.0), (0.5, 10.0, 20.0, 16.0)])
def test_a_box_at_or_beyond_the_edge_is_told(box):
    assert EvidenceCollector(picture(), BOX).collect(picture(), result(box))["edge"] == 1.0


def test_the_rival_is_the_highest_score_outside_the_box():
    scores = np.zeros((12, 16), np.float32)
    scores[3, 4] = 0.8  # cells of 10 pixels: in the box
    scores[8, 12] = 0.6
    assert rival_share(result(score=0.8, score_map=scores)) == pytest.approx(0.75)
    scores[8, 12] = 0.0
    assert rival_share(result(score=0.8, score_map=scores)) == 0.0
    assert rival_share(result()) == 0.0, "no map, no rival"


def test_a_look_back_counts_until_the_next_or_until_the_target_is_found_elsewhere():
    collector = EvidenceCollector(picture(), BOX)
    usual = collector.collect(picture(), result())["look_back"]
    assert collector.wants_look_back()
    collector.note_look_back(0.1)
    for age in range(20):
        assert not collector.wants_look_back()
        assert collector.wants_look_back(0.5) == (age >= 4), "sooner from a doubtful box"
        assert collector.collect(picture(), result())["look_back"] == pytest.approx(np.log(1 / 9))
    assert collector.wants_look_back()
    assert collector.collect_elsewhere(picture(), result())["look_back"] == 0.0, "not known"
    collector.move(BOX)
    assert not collector.wants_look_back()
    assert collector.collect(picture(), result())["look_back"] == usual
    collector.note_look_back(None)
    assert collector.collect(picture(), result())["look_back"] == usual, "it cannot tell"


class LookingBack(Scripted):
    """Finds something else in the first image."""

    calls = 0

    def look_back(self, image, box):
        self.calls += 1
        return 0.0


@pytest.mark.parametrize(("weight", "calls"), [(2.0, 1), (0.0, 0)])
def test_a_target_that_is_not_found_in_the_first_image_is_doubted(weight, calls):
    tracker = LookingBack()
    tracker.calibration = Calibration(0.0, {"score": 1.0, "look_back": weight}, {"look_back": 2.0})
    targets = TargetSet(StateLimits(), tracker=tracker)
    target = targets.select(lambda t: t.initialize(picture(), BOX), 0.0)
    target.start(picture(), BOX)
    states = []
    for number in range(3):
        target.take(result(), number / 30, picture())
        target.update_model(picture(), result())
        states.append(target.state)
    assert tracker.calls == calls
    after = TargetState.UNCERTAIN if calls else TargetState.TRACKING
    assert states == [TargetState.TRACKING, after, after]
    assert target.doubt is (Doubt.LOOK if calls else Doubt.NONE)


def test_targets_selected_at_once_look_back_in_different_frames():
    class Still(LookingBack):
        def track(self, image):
            return result()

        def fork(self):
            return forks.pop()

    forks = [Still() for _ in range(2)]
    trackers = [Still(), *forks]
    for tracker in trackers:
        tracker.calibration = Calibration(0.0, {"look_back": 1.0}, {"look_back": 2.0})
    follower = Follower(lambda image: image, TargetSet(tracker=trackers[0]))
    frames = number_frames([picture()] * 5)
    calls = [
        sum(tracker.calls for tracker in trackers)
        for _ in follower.follow([Selection(BOX)] * 3, frames)
    ]
    # The report of a frame is yielded after its update.
    assert calls == [0, 1, 2, 3, 3]


def following(results: list[TrackResult]) -> tuple[TargetSet, list]:
    """Follow a target by a script. Returns the set, and state, doubt and score per frame."""
    tracker = Scripted()
    targets = TargetSet(StateLimits(), tracker=tracker)
    target = targets.select(lambda t: t.initialize(picture(), BOX), 0.0)
    target.start(picture(), BOX)
    tracker.results = list(results)
    told = []
    for number in range(len(results)):
        (found,) = targets.track(picture(), [target])
        target.take(found, 0.1 * (number + 1), picture())
        told.append((target.state, target.doubt, target.score))
    return targets, told


def test_a_high_score_on_the_wrong_thing_is_doubted_with_a_reason():
    _, told = following([result(), result(OTHER, score=0.9)])
    assert told[0][:2] == (TargetState.TRACKING, Doubt.NONE)
    assert told[0][2] > 0.9
    assert told[1][0] is TargetState.UNCERTAIN
    assert told[1][1] is Doubt.JUMP
    assert told[1][2] < 0.1


def test_each_kind_of_evidence_has_its_doubt():
    alike = np.zeros((12, 16), np.float32)
    alike[3, 4] = alike[8, 12] = 0.5
    _, told = following(
        [
            result(score=0.05),
            result(score=0.5, score_map=alike),
            result((44.0, 32.0, 10.0, 8.0), 0.7),
        ]
    )
    doubts = [doubt for _, doubt, _ in told]
    assert doubts == [Doubt.LOW_SCORE, Doubt.LOOK_ALIKE, Doubt.SIZE]


def test_evidence_overrules_a_tracker_that_believes_and_never_one_that_does_not():
    _, told = following(
        [
            result(verdict=Verdict.HARD_NEGATIVE),
            result(OTHER, verdict=Verdict.NORMAL),
            result(verdict=Verdict.NOT_FOUND),
        ]
    )
    assert told[0][:2] == (TargetState.TRACKING, Doubt.LOOK_ALIKE)
    assert told[1][0] is TargetState.UNCERTAIN
    assert told[2][0] is TargetState.UNCERTAIN

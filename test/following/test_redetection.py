# SPDX-License-Identifier: Apache-2.0
"""Tests of finding a lost target again, with a tracker that sees one colour in its window."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tracker_ros.calibration import SCORE_ONLY
from tracker_ros.following.detections import Detection
from tracker_ros.following.follower import Follower
from tracker_ros.following.frames import number_frames
from tracker_ros.following.redetection import Redetection, RedetectionSettings, search_places
from tracker_ros.following.selection import Selection
from tracker_ros.following.target_set import TargetSet
from tracker_ros.following.target_state import TargetState
from tracker_ros.geometry import iou, tight_box
from tracker_ros.tracker import Tracker, TrackResult, Verdict

HEIGHT, WIDTH, SIDE = 240, 320, 24
START = (40.0, 60.0, float(SIDE), float(SIDE))


class RedTracker(Tracker):
    """Finds what is red within a square of four times the last box."""

    moves = True

    def initialize(self, image, box):
        self.box = tuple(box)

    def search_around(self, box):
        self.box = box
        return self.moves

    def track(self, image):
        x, y, w, h = self.box
        side = 4.0 * (w * h) ** 0.5
        left, top = x + w / 2 - side / 2, y + h / 2 - side / 2
        inside = np.zeros(image.shape[:2], bool)
        rows = slice(max(0, round(top)), max(0, round(top + side)))
        inside[rows, max(0, round(left)) : max(0, round(left + side))] = True
        red = inside & (image[..., 0] > 200)
        score = 0.9 if red.sum() > 100 else 0.1
        if score > 0.5:
            self.box = tight_box(red)
        return TrackResult(self.box, score, None, (left, top, side, side))

    def warm_up(self):
        pass


def picture(box=None):
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    if box is not None:
        x, y, w, h = (round(value) for value in box)
        image[y : y + h, x : x + w] = (255, 0, 0)
    return image


def follow(tracker, settings, boxes, **options):
    targets = TargetSet(tracker=tracker, redetection=settings)
    follower = Follower(lambda image: image, targets, **options)
    frames = number_frames(map(picture, boxes), 30.0)
    return [report.first for report in follower.follow(Selection(START), frames)]


AWAY = [*[START] * 5, *[None] * 60]
ELSEWHERE = (260.0, 180.0, 30.0, 30.0)


@pytest.mark.parametrize("place", [ELSEWHERE, (4.0, 4.0, 18.0, 18.0), (150.0, 100.0, 34.0, 34.0)])
def test_a_target_that_comes_back_elsewhere_is_found_and_keeps_its_id(place):
    reports = follow(RedTracker(), RedetectionSettings(), [*AWAY, *[place] * 60])
    assert reports[60].state is TargetState.LOST
    found = [i for i, report in enumerate(reports) if i > 64 and report.state == 2]
    assert found and iou(reports[found[0]].result.box, place) > 0.8
    assert reports[found[0]].target_id == reports[0].target_id
    assert found == list(range(found[0], len(reports)))


class FailsToLookBack(RedTracker):
    """Cannot look back."""

    calibration = SCORE_ONLY

    def look_back(self, image, box):
        raise RuntimeError("no memory")


def test_a_look_back_that_fails_is_a_fault_of_its_target_and_the_frame_is_reported():
    told = []
    boxes = [*AWAY, *[ELSEWHERE] * 60]
    reports = follow(
        FailsToLookBack(),
        RedetectionSettings(),
        boxes,
        complain=lambda source, text, error: told.append(str(error)),
    )
    assert len(reports) == len(boxes)
    assert "no memory" in told
    assert reports[-1].state is TargetState.LOST


def test_without_redetection_it_is_found_only_where_it_was_lost():
    reports = follow(RedTracker(), None, [*AWAY, *[ELSEWHERE] * 60])
    assert reports[-1].state is TargetState.LOST
    reports = follow(RedTracker(), None, [*AWAY, START])
    assert reports[-1].state is TargetState.TRACKING


FAR = (280.0, 200.0, 10.0, 10.0)


@pytest.mark.parametrize(
    "label, detection, helps",
    [
        ("", Detection(FAR, {"disc": 0.4}), True),
        ("disc", Detection(FAR, {"disc": 0.4}), True),
        ("disc", Detection(FAR, {}), True),
        ("disc", Detection(FAR, {"cup": 0.9}), False),
        ("disc", Detection((float("nan"), 0.0, 9.0, 9.0), {"disc": 0.9}), False),
    ],
)
def test_a_detection_of_the_targets_class_shows_where_to_look(label, detection, helps):
    tracker = RedTracker()
    targets = TargetSet(tracker=tracker, redetection=RedetectionSettings(interval_s=1000.0))
    follower = Follower(lambda image: image, targets)
    frames = number_frames(map(picture, [*AWAY, *[(276.0, 196.0, 18.0, 18.0)] * 60]), 30.0)
    states = []
    for report in follower.follow(Selection(START, label=label), frames):
        states.append(report.first.state)
        if len(states) > 60:
            follower.note_detections([detection])
    assert (states[-1] is TargetState.TRACKING) == helps


def test_detections_that_are_old_show_nothing():
    now = [0.0]
    targets = TargetSet(tracker=RedTracker(), redetection=RedetectionSettings(interval_s=1000.0))
    follower = Follower(lambda image: image, targets, clock=lambda: now[0])
    frames = number_frames(map(picture, [*AWAY, *[(276.0, 196.0, 18.0, 18.0)] * 60]), 30.0)
    for report in follower.follow(Selection(START), frames):
        follower.note_detections([Detection(FAR, {})])
        now[0] += 1.5
        state = report.first.state
    assert state is TargetState.LOST


def test_a_tracker_that_searches_whole_images_is_left_alone():
    tracker = RedTracker()
    tracker.moves = False
    reports = follow(tracker, RedetectionSettings(), [*AWAY, *[START] * 4])
    assert reports[-1].state is TargetState.TRACKING


def test_while_it_is_looked_for_the_box_is_where_it_was_last_seen():
    reports = follow(RedTracker(), RedetectionSettings(), AWAY)
    lost = [report for report in reports if report.state is TargetState.LOST]
    assert len(lost) > 20
    assert {report.result.box for report in lost[1:]} == {START}


def test_one_high_score_elsewhere_is_not_believed():
    boxes = list(AWAY)
    boxes += [ELSEWHERE if i % 2 else None for i in range(60)]
    reports = follow(RedTracker(), RedetectionSettings(), boxes)
    assert reports[-1].state is TargetState.LOST


@pytest.mark.parametrize("box", [START, (300.0, 220.0, 10.0, 16.0), (0.0, 0.0, 90.0, 40.0)])
def test_the_windows_cover_the_whole_image(box):
    side = 4.0 * (box[2] * box[3]) ** 0.5
    covered = np.zeros((HEIGHT, WIDTH), bool)
    places = search_places(box, side, HEIGHT, WIDTH)
    for x, y, w, h in itertools.islice(places, 2 * WIDTH * HEIGHT // 100):
        half = side * w / box[2] / 2
        cx, cy = x + w / 2, y + h / 2
        rows = slice(max(0, int(cy - half)), int(cy + half) + 1)
        covered[rows, max(0, int(cx - half)) : int(cx + half) + 1] = True
    assert covered.all()


def result(box, score=0.9, verdict=None):
    return TrackResult(box, score, None, box, verdict=verdict)


def searching(calibrated=True, **settings):
    """Return a search that has left the place of the loss."""
    search = Redetection(START, RedetectionSettings(**settings), calibrated)
    for _ in range(2):
        search.next_place(0.0, HEIGHT, WIDTH)
        search.judge(result(START, 0.0), 0.0, 0.6, back())
    return search


def back(score=0.9):
    return lambda box: score


def confirm(search, box, score, looked_back):
    """Let a search see a box in three frames and more. Returns in which frame it is believed."""
    for frame in range(12):
        search.next_place(frame / 30, HEIGHT, WIDTH)
        if search.judge(result(box, score), score, 0.6, looked_back):
            return frame
    return None


def test_what_a_detector_proposes_is_searched_every_second_time():
    search = searching()
    places = []
    for frame in range(8):
        places.append(search.next_place(frame / 30, HEIGHT, WIDTH, [ELSEWHERE, START]))
        search.judge(result(START, 0.0), 0.0, 0.6, back())
    assert places.count(ELSEWHERE) == 2 and places.count(START) == 4
    assert len({*places} - {ELSEWHERE, START}) == 2, "other places get their turn"


def test_it_must_be_found_several_times_in_a_row_at_one_place():
    search = searching(confirmations=3)
    moved = (20.0, 20.0, 24.0, 24.0)
    for box in (ELSEWHERE, ELSEWHERE, ELSEWHERE, moved, moved, moved):
        assert not search.judge(result(box), 0.95, 0.6, back())
    assert search.next_place(0.2, HEIGHT, WIDTH) == moved, "the candidate is looked at again"
    assert search.judge(result(moved), 0.95, 0.6, back())


def test_score_and_look_back_count_together():
    def found(score, looked_back, calibrated=True):
        search = searching(calibrated, certainty=0.97, certainty_alone=0.9, certainty_raw=0.7)
        return confirm(search, ELSEWHERE, score, back(looked_back))

    assert found(0.95, 0.9) == 3
    assert found(0.95, 0.5) is None
    assert found(0.75, 0.9) is None
    assert found(0.95, 0.0) is None
    assert found(0.95, None) == 3
    assert found(0.85, None) is None
    assert found(0.75, 0.0, calibrated=False) == 3
    assert found(0.65, 0.0, calibrated=False) is None


def test_a_candidate_that_is_never_sure_is_left_alone_for_a_while():
    search = searching()
    assert confirm(search, ELSEWHERE, 0.7, back(0.6)) is None
    for _ in range(3):
        place = search.next_place(0.5, HEIGHT, WIDTH)
        assert place != ELSEWHERE
        search.judge(result(ELSEWHERE, 0.7), 0.7, 0.6, back(0.6))
    search.next_place(2.0, HEIGHT, WIDTH)
    search.judge(result(ELSEWHERE, 0.7), 0.7, 0.6, back(0.6))
    assert search.next_place(2.1, HEIGHT, WIDTH) == ELSEWHERE


@pytest.mark.parametrize(
    "box, score, verdict",
    [
        ((10.0, 10.0, 90.0, 90.0), 0.99, None),
        ((10.0, 10.0, 6.0, 6.0), 0.99, None),
        (ELSEWHERE, 0.3, None),
        (ELSEWHERE, 0.99, Verdict.NOT_FOUND),
        (ELSEWHERE, 0.99, Verdict.UNCERTAIN),
    ],
)
def test_what_does_not_look_like_the_target_is_not_found(box, score, verdict):
    search = searching(confirmations=1)
    for _ in range(4):
        assert not search.judge(result(box, score, verdict), score, 0.6, back())


def test_between_two_looks_elsewhere_it_stays_where_the_target_was_lost():
    search = Redetection(START, RedetectionSettings(interval_s=1.0))
    places = [search.next_place(0.1 * frame, HEIGHT, WIDTH) for frame in range(40)]
    assert 3 <= sum(place != START for place in places) <= 4


def test_a_target_that_was_lost_without_images_is_expected_where_it_was():
    targets = TargetSet(tracker=RedTracker(), redetection=RedetectionSettings())
    target = targets.select(lambda tracker: tracker.initialize(picture(START), START), 0.0)
    target.take(target.tracker.track(picture(START)), 0.1, picture(START))
    assert target.no_frame(5.0) is TargetState.LOST
    target.aim(5.1, HEIGHT, WIDTH)
    target.take(target.tracker.track(picture(START)), 5.1, picture(START))
    assert target.state is TargetState.TRACKING

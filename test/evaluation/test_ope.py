# SPDX-License-Identifier: Apache-2.0
"""Running trackers over sequences, OpenCV's yardsticks, and the cache of their answers."""

import numpy as np
import pytest

from tracker_ros.evaluation import ope, page
from tracker_ros.evaluation.baselines import BASELINES, OpenCvTracker
from tracker_ros.evaluation.metrics import score_sequence, score_tracker
from tracker_ros.evaluation.ope import AnswerCache, TrackedSequence, run_ope
from tracker_ros.evaluation.page import comparison, default_model_reason
from tracker_ros.evaluation.report import sequence_table, summary_table
from tracker_ros.evaluation.sequences import AnnotatedSequence
from tracker_ros.following.redetection import RedetectionSettings
from tracker_ros.model_cards import ModelCard
from tracker_ros.tracker import Tracker, TrackResult


class _Drifting(Tracker):
    """Answers the first box, moved by two pixels more with each frame."""

    def initialize(self, image, box):
        self.box = list(box)

    def track(self, image):
        self.box[0] += 2
        return TrackResult(tuple(self.box), 0.5, None, (0, 0, 1, 1))

    def warm_up(self):
        raise AssertionError("not called here")


def moving_square(count=12, step=2, name="square"):
    """A textured square over noise, moving to the right."""
    generator = np.random.default_rng(0)
    ground = generator.integers(60, 120, (120, 160, 3), dtype=np.uint8)
    patch = generator.integers(0, 255, (32, 32, 3), dtype=np.uint8)
    frames, boxes = [], []
    for index in range(count):
        image = ground.copy()
        x = 30 + step * index
        image[40:72, x : x + 32] = patch
        frames.append(image)
        boxes.append((x, 40, 32, 32))
    return AnnotatedSequence(name, tuple(frames), np.array(boxes, np.float64))


def test_tracker_starts_on_the_first_box_and_is_never_helped():
    sequence = moving_square()
    seen = []
    answer = run_ope(_Drifting(), sequence, lambda: seen.append(1))
    assert np.array_equal(answer.boxes, sequence.boxes)
    assert answer.scores.tolist() == [1.0] + [0.5] * 11
    assert len(seen) == 12
    assert answer.seconds > 0


class _Near(_Drifting):
    """Finds a white square near the last box."""

    def search_around(self, box):
        self.box = list(box)
        return True

    def track(self, image):
        x, y, w, h = self.box
        left, top = max(0, int(x - 2 * w)), max(0, int(y - 2 * h))
        window = image[top : int(y + 3 * h), left : int(x + 3 * w), 0] == 255
        seen = window.any()
        if seen:
            row, column = (int(places.min()) for places in np.nonzero(window))
            self.box = [left + column, top + row, 12, 12]
        region = (float(left), float(top), 60.0, 60.0)
        return TrackResult(tuple(map(float, self.box)), 0.9 if seen else 0.1, None, region)


def test_with_redetection_a_target_is_found_that_comes_back_elsewhere():
    frames = np.zeros((120, 120, 160, 3), np.uint8)
    frames[:5, 20:32, 20:32] = 255
    frames[60:, 90:102, 140:152] = 255
    boxes = np.full((120, 4), np.nan)
    boxes[:5], boxes[60:] = (20, 20, 12, 12), (140, 90, 12, 12)
    sequence = AnnotatedSequence("away", tuple(frames), boxes)
    without = run_ope(_Near(), sequence)
    found = run_ope(_Near(), sequence, redetection=RedetectionSettings())
    assert without.states[-1] == "LOST" and without.boxes[-1].tolist() == [20, 20, 12, 12]
    assert found.states[-1] == "TRACKING" and found.boxes[-1].tolist() == [140, 90, 12, 12]
    assert found.scores[59] < 0.6


@pytest.mark.parametrize("name", BASELINES)
def test_yardsticks_follow_an_easy_target(name):
    sequence = moving_square()
    answer = run_ope(OpenCvTracker(name), sequence)
    assert score_sequence("s", answer.boxes, sequence.boxes).mean_overlap > 0.6
    if name != "mil":  # seeded by the clock inside OpenCV
        again = run_ope(OpenCvTracker(name), sequence)
        assert np.array_equal(answer.boxes, again.boxes), "the same frames give the same answer"


def test_a_yardstick_that_is_lost_says_so_and_repeats_its_last_box():
    sequence = moving_square()
    tracker = OpenCvTracker("kcf")
    tracker.initialize(next(sequence.images()), tuple(sequence.boxes[0]))
    assert tracker.track(sequence.frames[0]).score == 1.0
    result = tracker.track(np.zeros((120, 160, 3), np.uint8))
    assert result.score == 0.0
    assert result.verdict == "not_found"
    assert result.box == tuple(sequence.boxes[0])


def test_yardsticks_refuse_bad_calls():
    with pytest.raises(ValueError, match="'boosting'.*csrt"):
        OpenCvTracker("boosting")
    with pytest.raises(RuntimeError, match="initialize"):
        OpenCvTracker("kcf").track(np.zeros((20, 20, 3), np.uint8))
    with pytest.raises(ValueError, match="does not overlap"):
        OpenCvTracker("kcf").initialize(np.zeros((20, 20, 3), np.uint8), (90, 90, 5, 5))


def test_cache_returns_what_was_put_for_the_same_frames_only(tmp_path):
    cache = AnswerCache(tmp_path / "cache")
    sequence = moving_square()
    answer = TrackedSequence(sequence.boxes, np.ones(12), 0.25)
    assert cache.get("csrt 1", sequence) is None
    cache.put("csrt 1", sequence, answer)
    kept = cache.get("csrt 1", sequence)
    assert np.array_equal(kept.boxes, answer.boxes)
    assert kept.seconds == 0.25
    assert cache.get("csrt 2", sequence) is None
    assert cache.get("csrt 1", moving_square(step=1)) is None
    same_boxes = AnnotatedSequence(
        "square", tuple(255 - frame for frame in sequence.frames), sequence.boxes
    )
    assert cache.get("csrt 1", same_boxes) is None


def test_what_was_measured_survives_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(ope._LOG, "warning", lambda text, *values: said.append(text % values))
    sequence = moving_square()
    answer = TrackedSequence(sequence.boxes, np.ones(12), 0.25)
    (tmp_path / "file").touch()
    AnswerCache(tmp_path / "file" / "cache").put("csrt 1", sequence, answer)
    assert said[0].startswith("results of csrt 1 are not kept: ")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    cache = AnswerCache.default()
    cache.put("csrt 1", sequence, answer)
    assert cache.get("csrt 1", sequence) is None


def test_tables_show_best_in_bold_and_say_who_is_ahead():
    sequence = moving_square()
    still = np.tile(sequence.boxes[0], (12, 1))
    ours = score_tracker(
        "ostrack_tiny", [score_sequence("square", sequence.boxes, sequence.boxes, 1.0)]
    )
    theirs = score_tracker("csrt", [score_sequence("square", still, sequence.boxes)])
    assert "| ostrack_tiny | **0.952** | 1.000 | 0 | 11 |" in summary_table([ours, theirs])
    assert f"| csrt | {theirs.auc:.3f} |" in summary_table([ours, theirs])
    assert f"| square | 11 | **0.952** | {theirs.auc:.3f} |" in sequence_table([ours, theirs])
    assert "above CSRT" in comparison([ours, theirs])
    assert "better on 1 of 1" in comparison([ours, theirs])
    assert comparison([ours]) == ""


def test_the_default_model_is_justified_by_numbers_or_not_at_all(monkeypatch):
    def card(name):
        return ModelCard(name, "f", "", 1, 1, "", "", "", 1, weights=f"{name}.safetensors")

    monkeypatch.setattr(page, "list_models", lambda: ["good", "fair"])
    monkeypatch.setattr(page, "model_card", card)
    sequence = moving_square()
    still = np.tile(sequence.boxes[0], (12, 1))
    good, fair, csrt = (
        score_tracker(name, [score_sequence("square", boxes, sequence.boxes, 0.5)])
        for name, boxes in (("good", sequence.boxes), ("fair", still), ("csrt", sequence.boxes))
    )
    monkeypatch.setattr(page, "DEFAULT_MODEL", "good")
    reason = default_model_reason([fair, csrt, good])
    assert reason.startswith("**The default model** is `good`: it has the highest")
    assert reason.endswith(f"against `fair` {fair.auc:.3f} at 22 frames/s.")
    monkeypatch.setattr(page, "DEFAULT_MODEL", "fair")
    assert "does not have the highest" in default_model_reason([fair, good])
    assert default_model_reason([fair, csrt]) == ""


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("box", [(-6.0, -4.0, 30.0, 24.0), (100.0, 60.0, 40.0, 30.0)])
def test_baselines_start_on_boxes_that_reach_beyond_the_image(name, box):
    image = np.random.default_rng(0).integers(0, 255, (80, 120, 3), np.uint8)
    tracker = OpenCvTracker(name)
    tracker.initialize(image, box)
    assert np.isfinite(tracker.track(image).box).all()


def test_objects_of_one_video_are_tracked_at_once():
    masks = np.zeros((2, 40, 60), bool)
    masks[0, 5:15, 5:20], masks[1, 20:35, 30:50] = True, True
    frames = tuple(np.zeros((40, 60, 3), np.uint8) for _ in range(3))
    video = [
        AnnotatedSequence(
            f"v.{n}", frames, np.tile([5.0, 5, 9, 9], (3, 1)), {}, (mask,) * 3, None, "v"
        )
        for n, mask in enumerate(masks, 1)
    ]

    class Masks(_Drifting):
        def track(self, image):
            mask = np.zeros((40, 60), bool)
            mask[:2] = True
            return TrackResult(tuple(self.box), 0.5, None, (0, 0, 1, 1), mask)

    answers = ope.run_objects(Masks(), video)
    assert [answer.boxes[0].tolist() for answer in answers] == [[5, 5, 15, 10], [30, 20, 20, 15]]
    assert np.array_equal(answers[1].masks[0], masks[1])
    assert answers[0].masks[2].sum() == 120
    assert answers[0].frame_seconds.shape == (3,)
    assert answers[0].frame_seconds[0] == 0

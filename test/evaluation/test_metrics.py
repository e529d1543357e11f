# SPDX-License-Identifier: Apache-2.0
"""Metrics against values worked out by hand."""

import numpy as np
import pytest

from tracker_ros.evaluation.metrics import (
    SUCCESS_THRESHOLDS,
    center_distances,
    count_failures,
    score_sequence,
    score_tracker,
    success_curve,
    visible,
)
from tracker_ros.geometry import ious

NAN = float("nan")


def test_overlaps_of_known_pairs():
    predicted = np.array(
        [[0, 0, 10, 10], [5, 0, 10, 10], [0, 0, 5, 5], [20, 0, 5, 5], [NAN] * 4, [0, 0, -4, 9]]
    )
    annotated = np.tile([0.0, 0.0, 10.0, 10.0], (6, 1))
    assert ious(predicted, annotated) == pytest.approx([1, 1 / 3, 0.25, 0, 0, 0])


def test_center_distances_of_known_pairs():
    predicted = np.array([[3.0, 4, 10, 10], [0, 0, 20, 10], [NAN] * 4])
    annotated = np.tile([0.0, 0.0, 10.0, 10.0], (3, 1))
    assert center_distances(predicted, annotated).tolist() == [5.0, 5.0, np.inf]


def test_success_curve_counts_strictly_above_each_threshold():
    assert SUCCESS_THRESHOLDS[[0, 1, 10, 20]].tolist() == [0.0, 0.05, 0.5, 1.0]
    curve = success_curve(np.array([0.0, 0.5, 0.72, 1.0]))
    assert curve[0] == 0.75, "overlap 0 is not above 0"
    assert curve[9] == 0.75, "0.5 is above 0.45"
    assert curve[10] == 0.5, "0.5 is not above 0.5"
    assert curve[14] == 0.5
    assert curve[15] == 0.25, "0.72 is not above 0.75"
    assert curve[20] == 0.0, "nothing is above 1"


def test_failures_are_runs_of_zero_overlap():
    assert count_failures(np.array([0.9, 0.0, 0.0, 0.4, 0.0, 0.2])) == 2
    assert count_failures(np.array([0.0, 0.0])) == 1
    assert count_failures(np.array([0.1, 0.2])) == 0


def test_sequence_score_leaves_out_first_and_absent_frames():
    annotated = np.array([[0.0, 0, 10, 10]] * 5)
    annotated[2] = NAN
    annotated[4] = [0, 0, 0, 10]
    predicted = annotated.copy()
    predicted[0] = [500, 500, 1, 1]
    predicted[1] = [5, 0, 10, 10]
    predicted[2] = [900, 900, 1, 1]
    predicted[3] = [30, 0, 10, 10]
    score = score_sequence("s", predicted, annotated, seconds=2.0)
    assert score.frames == 2
    # Overlaps 1/3 and 0: above 0, 0.05, …, 0.30 (7 of 21 thresholds) for one of two frames.
    assert score.auc == pytest.approx(0.5 * 7 / 21)
    assert score.mean_overlap == pytest.approx(1 / 6)
    assert score.precision == 0.5
    assert score.failures == 1
    assert score.frames_per_second == 2.0
    assert visible(annotated).tolist() == [True, True, False, True, False]


def test_tracker_score_weighs_sequences_equally_and_time_by_frames():
    truth_short = np.array([[0.0, 0, 10, 10]] * 3)
    truth_long = np.array([[0.0, 0, 10, 10]] * 11)
    missed = truth_long + np.array([100.0, 0, 0, 0])
    short = score_sequence("short", truth_short, truth_short, seconds=1.0)
    long = score_sequence("long", missed, truth_long, seconds=2.0)
    total = score_tracker("t", [short, long])
    assert total.auc == pytest.approx((20 / 21 + 0) / 2)
    assert total.precision == 0.5
    assert total.failures == 1
    assert total.frames_per_second == pytest.approx(12 / 3.0)
    assert total.success_curve[0] == 0.5


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"\(2, 4\).*\(3, 4\)"):
        score_sequence("s", np.zeros((2, 4)), np.zeros((3, 4)))
    with pytest.raises(ValueError, match="'s' has no annotated target"):
        score_sequence("s", np.zeros((2, 4)), np.full((2, 4), NAN))
    with pytest.raises(ValueError, match="no sequences"):
        score_tracker("t", [])

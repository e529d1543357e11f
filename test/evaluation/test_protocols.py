# SPDX-License-Identifier: Apache-2.0
"""The benchmarks' ways of counting, against numbers that their toolkits gave.

`tools/toolkit_references.py` asked the toolkits (versions in the file): they cannot be installed
beside the packages of the development environment.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from tracker_ros.evaluation.metrics import contour_accuracy, davis_score, region_similarity
from tracker_ros.evaluation.protocols import (
    LasotScore,
    LongTermRun,
    VotScore,
    got10k_overlaps,
    got10k_score,
    lasot_score,
    long_term_score,
    otb_score,
    vot_overlaps,
    vot_score,
    vot_total,
)

REFERENCES = json.loads((Path(__file__).parent / "toolkit_references.json").read_text())
SIZE = tuple(REFERENCES["size"])
EXACT = {"abs": 1e-6, "rel": 0}
NAN = float("nan")


def boxes_of(index):
    sequence = REFERENCES["sequences"][index]
    return np.array(sequence["found"]), np.array(sequence["true"]), sequence


@pytest.mark.parametrize("index", range(len(REFERENCES["sequences"])))
def test_otb_and_vot(index):
    found, true, wanted = boxes_of(index)
    score = otb_score(found, true)
    assert score.success == pytest.approx(wanted["otb"]["success"], **EXACT)
    assert score.precision == pytest.approx(wanted["otb"]["precision"], **EXACT)
    assert vot_overlaps(found, true, *SIZE) == pytest.approx(wanted["vot"]["overlaps"], **EXACT)
    run = vot_score(found, true, *SIZE)
    assert run.accuracy == pytest.approx(wanted["vot"]["accuracy"], **EXACT)
    assert run.robustness == pytest.approx(wanted["vot"]["robustness"], **EXACT)


def test_got10k():
    overlaps = []
    for index, sequence in enumerate(REFERENCES["sequences"]):
        found, true, _ = boxes_of(index)
        overlaps.append(got10k_overlaps(found, true, *SIZE))
        assert overlaps[-1] == pytest.approx(sequence["got10k"], **EXACT)
    score, wanted = got10k_score(overlaps), REFERENCES["got10k"]
    assert score.average_overlap == pytest.approx(wanted["ao"], **EXACT)
    assert score.success_050 == pytest.approx(wanted["sr_050"], **EXACT)
    assert score.success_075 == pytest.approx(wanted["sr_075"], **EXACT)


def test_region_and_contour():
    masks = REFERENCES["masks"]
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]

    def ellipse(cx, cy, rx, ry):
        return ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 <= 1

    pairs = [
        (ellipse(*found), ellipse(*true))
        for found, true in zip(masks["found"], masks["true"], strict=True)
    ]
    region = np.mean([region_similarity(*pair) for pair in pairs])
    contour = np.mean([contour_accuracy(*pair) for pair in pairs])
    assert region == pytest.approx(masks["region"], **EXACT)
    assert contour == pytest.approx(masks["contour"], **EXACT)


def test_the_references_tell_a_good_run_from_a_lost_one():
    robustness = [sequence["vot"]["robustness"] for sequence in REFERENCES["sequences"]]
    assert robustness[0] == 1.0
    assert robustness[2] == 0.5


def test_absent_frames_count_as_each_benchmark_counts_them():
    true = np.array([[10.0, 10, 20, 20]] * 4)
    found = true.copy()
    true[2] = NAN
    assert got10k_overlaps(found, true, *SIZE).tolist() == [1.0, 1.0]
    score = otb_score(found, true)
    assert score.success == pytest.approx(0.75 * 20 / 21)
    assert score.precision == 0.75
    assert lasot_score(found, true) == LasotScore(score.success, 0.75, 0.75)
    assert vot_score(found, true, *SIZE).robustness == 1.0


def test_normalised_precision_is_relative_to_the_size():
    true = np.array([[10.0, 10, 20, 40]] * 4)
    found = true + np.array([[0.0, 0], [4, 0], [0, 8], [4, 8]]) @ np.eye(2, 4)
    # A fifth of the width, of the height, and of both: the last is 0.28 away.
    assert lasot_score(found, true).normalised_precision == 0.75


def test_vot_totals_weight_frames():
    runs = [VotScore(0.8, 1.0, 30, 30), VotScore(0.5, 0.1, 10, 100), VotScore(0.0, 0.0, 0, 20)]
    total = vot_total(runs)
    assert total.accuracy == pytest.approx((0.8 * 30 + 0.5 * 10) / 40)
    assert total.robustness == pytest.approx(40 / 150)


def test_long_term_scores_choose_the_confidence_that_is_best():
    overlaps = np.array([0.0, 0.9, 0.8, 0.0, 0.0])  # the target is gone in the last two
    sure = np.array([0.0, 0.9, 0.8, 0.1, 0.2])
    score = long_term_score([LongTermRun(overlaps, sure, 3)])
    assert score.precision == pytest.approx(0.85)
    assert score.recall == pytest.approx(1.7 / 3)
    unsure = long_term_score([LongTermRun(overlaps, np.ones(5), 3)])
    assert unsure.precision == pytest.approx(1.7 / 5)
    assert long_term_score([LongTermRun(np.zeros(3), np.ones(3), 2)]).f_score == 0.0


def test_davis_counts_neither_the_first_frame_nor_the_last():
    score = davis_score([0.0, 1.0, 1.0, 0.6, 0.4, 0.4, 0.0], [0.0, *[0.8] * 5, 0.0])
    assert score.region == pytest.approx(0.68)
    assert score.region_recall == pytest.approx(0.6)
    assert score.region_decay == pytest.approx(0.6)
    assert (score.contour, score.contour_recall, score.contour_decay) == (0.8, 1.0, 0.0)

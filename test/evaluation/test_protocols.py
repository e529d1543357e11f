# SPDX-License-Identifier: Apache-2.0
"""The benchmarks' ways of counting, against numbers that their toolkits gave.

`tools/toolkit_references.py` asked the toolkits (versions in the file): they cannot be installed
beside the packages of the development environment.
"""

import json
from dataclasses import asdict
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
    regions = [region_similarity(*pair) for pair in pairs]
    contours = [contour_accuracy(*pair) for pair in pairs]
    # The toolkit's metric is given the frames that count: neither the first nor the last.
    score = davis_score([1.0, *regions, 0.0], [1.0, *contours, 0.0])
    for name, value in asdict(score).items():
        assert value == pytest.approx(masks[name], **EXACT), name


def test_long_term():
    wanted, runs = REFERENCES["long_term"], []
    for run in wanted["runs"]:
        found, true = np.array(run["found"]), np.array(run["true"])
        true[run["absent"]] = NAN
        overlaps = vot_overlaps(found, true, *SIZE)
        overlaps[0] = 0.0
        shown = len(true) - len(run["absent"])
        runs.append(LongTermRun(overlaps, np.array(run["confidence"]), shown))
    for name, value in asdict(long_term_score(runs)).items():
        assert value == pytest.approx(wanted[name], **EXACT), name


def test_lasot_as_pytracking_defines_it():
    rng = np.random.default_rng(5)
    for index in range(len(REFERENCES["sequences"])):
        found, true, _ = boxes_of(index)
        true = np.round(true)  # as in LaSOT; elsewhere single counts differ by rounding
        shown = np.append(True, rng.random(len(true) - 1) > 0.2)
        found[0] = true[0]
        # Centres and corners are those of the first and the last pixel.
        offset = (found[:, :2] + (found[:, 2:] - 1) / 2) - (true[:, :2] + (true[:, 2:] - 1) / 2)
        last = np.minimum(found[:, :2] + found[:, 2:], true[:, :2] + true[:, 2:]) - 1
        sides = np.clip(last - np.maximum(found[:, :2], true[:, :2]) + 1, 0, None)
        shared = sides.prod(1)
        overlap = shared / (found[:, 2:].prod(1) + true[:, 2:].prod(1) - shared)
        success = [(shown & (overlap > 0.05 * step)).mean() for step in range(21)]
        near = shown & (np.linalg.norm(offset, axis=1) <= 20)
        relative = shown & (np.linalg.norm(offset / true[:, 2:], axis=1) <= 0.2)
        true[~shown] = NAN
        score = lasot_score(found, true)
        assert score.success == pytest.approx(np.mean(success), **EXACT)
        assert score.precision == pytest.approx(near.mean(), **EXACT)
        assert score.normalised_precision == pytest.approx(relative.mean(), **EXACT)


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

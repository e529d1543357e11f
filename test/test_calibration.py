# SPDX-License-Identifier: Apache-2.0
"""Tests of the probability that a result is right."""

from __future__ import annotations

import math

import pytest

from tracker_ros.calibration import EVIDENCE, SCORE_ONLY, Calibration
from tracker_ros.model_cards import model_cards

NOTHING = dict.fromkeys(EVIDENCE, 0.0)


def test_odds_are_the_weighted_sum_of_the_evidence():
    calibration = Calibration(0.5, {"score": 2.0, "jump": -3.0})
    odds = 0.5 + 2.0 * 0.7 - 3.0 * 0.2
    expected = 1.0 / (1.0 + math.exp(-odds))
    given = {**NOTHING, "score": 0.7, "jump": 0.2, "edge": 1.0}
    assert calibration.probability(given) == pytest.approx(expected)


def test_the_strongest_counter_evidence_is_compared_with_what_is_typical():
    calibration = Calibration(
        0.0, {"score": 1.0, "likeness": 2.0, "jump": -2.0}, {"score": 3.0, "likeness": 0.9}
    )
    typical = {**NOTHING, "score": 3.0, "likeness": 0.9}
    assert calibration.strongest_against({**typical, "jump": 0.5}) == "jump"
    assert calibration.strongest_against({**typical, "likeness": 0.1}) == "likeness"
    assert calibration.strongest_against({**typical, "score": -1.0}) == "score"


def test_without_a_fit_a_score_of_035_is_as_likely_right_as_wrong():
    odds = math.log(0.35 / 0.65)
    assert SCORE_ONLY.probability({**NOTHING, "score": odds}) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    "bias, weights, named",
    [
        (0.0, {"colours": 1.0}, "colours"),
        (math.nan, {}, "bias"),
        (0.0, {"jump": math.inf}, "jump"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(bias, weights, named):
    with pytest.raises(ValueError, match=named):
        Calibration(bias, weights)


def test_fits_of_embedded_weights_count_likeness_for_and_rivals_against_a_result():
    fitted = [card.calibration for card in model_cards().values() if card.calibration]
    assert fitted, "no embedded weights are calibrated"
    for calibration in fitted:
        assert calibration.weights["score"] > 0
        sure = {name: calibration.typical[name] for name in EVIDENCE}
        assert calibration.probability(sure) > 0.9
        gone = {**sure, "score": -3.0, "likeness": 0.0, "likeness_first": 0.0, "colour": 0.2}
        assert calibration.probability(gone) < 0.5

# SPDX-License-Identifier: Apache-2.0
"""Choosing among detections."""

from __future__ import annotations

import math

import pytest

from tracker_ros.following.detections import Detection, DetectionRule, choose_detection
from tracker_ros.following.selection import SelectionCode, SelectionRefused

BEST, LARGEST, NEAREST = DetectionRule
FOUND = [
    Detection((10.0, 10.0, 20.0, 40.0), {"person": 0.6, "dog": 0.3}),
    Detection((100.0, 50.0, 60.0, 60.0), {"car": 0.9}),
    Detection((40.0, 10.0, 20.0, 45.0), {"person": 0.8}),
    Detection((0.0, 0.0, 200.0, 200.0), {}),
]


@pytest.mark.parametrize(
    ("rule", "options", "index"),
    [
        (BEST, {}, 1),
        (BEST, {"class_id": "person"}, 2),
        (BEST, {"class_id": "dog"}, 0),
        (LARGEST, {}, 3),
        (LARGEST, {"min_score": 0.1}, 1),
        (LARGEST, {"class_id": "person"}, 2),
        (NEAREST, {"class_id": "person", "point": (0.0, 0.0)}, 0),
        (NEAREST, {"class_id": "person", "point": (38.0, 30.0)}, 2),
        (NEAREST, {"min_score": 0.1, "point": (101.0, 51.0)}, 1),
    ],
)
def test_the_rule_decides(rule, options, index):
    assert choose_detection(FOUND, rule, **options) == index


def test_a_point_inside_a_box_is_nearer_than_one_close_to_another_centre():
    beside = Detection((0.0, 0.0, 10.0, 10.0), {"a": 1.0})
    around = Detection((11.0, 0.0, 300.0, 10.0), {"a": 1.0})
    assert choose_detection([beside, around], NEAREST, point=(12.0, 5.0)) == 1


@pytest.mark.parametrize(
    ("rule", "options"),
    [
        (BEST, {"class_id": "cat"}),
        (BEST, {"min_score": 0.95}),
        (BEST, {"min_score": math.nan}),
        (NEAREST, {"point": (math.nan, 0.0)}),
        (7, {}),
    ],
)
def test_nothing_fits(rule, options):
    with pytest.raises(SelectionRefused) as refused:
        choose_detection(FOUND, rule, **options)
    assert refused.value.code is SelectionCode.NO_DETECTION


def test_impossible_boxes_are_left_out():
    nan = math.nan
    broken = [(nan, 0.0, 9.0, 9.0), (0.0, 0.0, math.inf, 9.0), (0.0, 0.0, 0.0, 9.0)]
    found = [Detection(box, {"a": 0.9}) for box in broken] + [
        Detection((5.0, 5.0, 9.0, 9.0), {"a": 0.1})
    ]
    for rule in DetectionRule:
        assert choose_detection(found, rule) == 3
    with pytest.raises(SelectionRefused):
        choose_detection(found[:3], BEST)

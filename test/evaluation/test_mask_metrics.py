# SPDX-License-Identifier: Apache-2.0
"""J and F of masks, on shapes whose values can be worked out by hand."""

import numpy as np
import pytest

from tracker_ros.evaluation.metrics import (
    MaskRow,
    MaskScore,
    contour_accuracy,
    distance_to,
    filled_box,
    filled_boxes,
    filled_true_boxes,
    outline,
    region_similarity,
    score_masks,
)
from tracker_ros.evaluation.report import mask_table
from tracker_ros.evaluation.sequences import AnnotatedSequence

SHAPE = (300, 400)  # a diagonal of 500 pixels: outlines match up to 4 pixels apart
SQUARE = filled_box((100, 100, 80, 80), *SHAPE)
NOTHING = np.zeros(SHAPE, bool)


def moved(dx: int) -> np.ndarray:
    """The square, further to the right."""
    return np.roll(SQUARE, dx, axis=1)


def test_region_similarity_is_intersection_over_union():
    assert region_similarity(SQUARE, SQUARE) == 1.0
    assert region_similarity(SQUARE, moved(40)) == pytest.approx(40 / 120)
    assert region_similarity(SQUARE, NOTHING) == 0.0
    assert region_similarity(NOTHING, NOTHING) == 1.0


def test_outlines_match_up_to_their_tolerance():
    assert contour_accuracy(SQUARE, SQUARE) == 1.0
    assert contour_accuracy(moved(4), SQUARE) == 1.0
    beyond = contour_accuracy(moved(5), SQUARE)
    # The two upright sides of 80 no longer match but near the corners; the other two do.
    assert 0.5 < beyond < 0.6
    assert contour_accuracy(moved(100), SQUARE) == 0.0


def test_precision_and_recall_both_count():
    both = SQUARE | filled_box((300, 100, 80, 80), *SHAPE)
    # All of one outline, half of the other: harmonic mean of 1 and 1/2, whichever is the truth.
    assert contour_accuracy(both, SQUARE) == pytest.approx(2 / 3)
    assert contour_accuracy(SQUARE, both) == pytest.approx(2 / 3)


def test_missing_outlines():
    assert contour_accuracy(NOTHING, NOTHING) == 1.0
    assert contour_accuracy(NOTHING, SQUARE) == 0.0
    assert contour_accuracy(SQUARE, NOTHING) == 0.0


def test_an_outline_has_no_edge_along_the_image_border():
    half = np.zeros((6, 8), bool)
    half[:, 4:] = True
    assert outline(half).sum(0).tolist() == [0, 0, 0, 6, 0, 0, 0, 0]
    corner = np.zeros((4, 4), bool)
    corner[2:, 2:] = True
    assert outline(corner).tolist() == [
        [False, False, False, False],
        [False, True, True, True],
        [False, True, False, False],
        [False, True, False, False],
    ]


def test_distances_are_euclidean():
    pixels = np.zeros((20, 30), bool)
    pixels[3, 4] = True
    assert distance_to(pixels)[7, 7] == pytest.approx(5.0)


def test_a_box_fills_the_pixels_whose_middles_it_holds():
    mask = filled_box((1.4, 0.6, 2.0, 1.0), 4, 6)
    assert np.argwhere(mask).tolist() == [[1, 2], [1, 1]][::-1]
    assert not filled_box((np.nan, 0, 2, 2), 4, 6).any()


def sequence(masks) -> AnnotatedSequence:
    """Frames with true masks."""
    frames = tuple(np.zeros((*SHAPE, 3), np.uint8) for _ in masks)
    return AnnotatedSequence(
        "s", frames, np.tile([100.0, 100, 80, 80], (len(masks), 1)), {}, masks
    )


def test_neither_the_first_frame_nor_those_without_a_target_count():
    shown = sequence((SQUARE, SQUARE, NOTHING, SQUARE))
    score = score_masks(shown, [NOTHING, SQUARE, SQUARE, moved(40)])
    assert score.frames == 2
    assert score.region == pytest.approx((1 + 1 / 3) / 2)
    assert score.contour == pytest.approx((1 + contour_accuracy(moved(40), SQUARE)) / 2)
    with pytest.raises(ValueError, match="no mask of 's' after the first shows the target"):
        score_masks(sequence((SQUARE, NOTHING)), [SQUARE, SQUARE])


def test_boxes_and_the_tight_boxes_of_true_masks_are_filled():
    disc = distance_to(filled_box((140, 140, 1, 1), *SHAPE)) <= 40
    shown = sequence((disc, disc, NOTHING))
    best = score_masks(shown, filled_true_boxes(shown))
    assert best.region == pytest.approx(np.pi / 4, abs=0.02)
    assert score_masks(shown, filled_boxes(shown.boxes, shown)).region == pytest.approx(
        0.7846, abs=1e-3
    )
    beside = filled_boxes(shown.boxes + [20, 0, 0, 0], shown)
    assert score_masks(shown, beside).region < 0.7


def test_the_table_has_means_first_and_the_best_in_bold():
    rows = [
        MaskRow("a", (MaskScore("x", 5, 0.5, 0.75), MaskScore("y", 9, 0.25, 0.25))),
        MaskRow("b, box filled", (MaskScore("x", 5, 0.5, 0.5), MaskScore("y", 9, 0.5, 0.25))),
    ]
    assert mask_table(rows).splitlines() == [
        "| Masks | J | F | x J / F | y J / F |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| a | 0.375 | **0.500** | 0.500 / 0.750 | 0.250 / 0.250 |",
        "| b, box filled | **0.500** | 0.375 | 0.500 / 0.500 | 0.500 / 0.250 |",
    ]

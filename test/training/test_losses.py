# SPDX-License-Identifier: Apache-2.0
"""Losses of trackers that learn online; those of one-stream trackers are in test/parity."""

import math

import pytest
import torch

from tracker_ros.training.losses import (
    LABEL_SIGMA,
    MIN_OVERLAP,
    density_loss,
    draw_density_proposals,
    draw_proposals,
    filter_loss,
    hinge_loss,
    overlap_loss,
    overlaps,
    score_labels,
)

BOXES = torch.tensor([[40.0, 56.0, 48.0, 32.0], [10.0, 10.0, 20.0, 60.0]])


def test_the_score_label_peaks_at_the_target_s_centre():
    label = score_labels(BOXES, torch.tensor([True, True]), 9, 3.0, 16, 4)
    # Centre (64, 72) of the first box: column 4, row 4.5 of a map with 16 px per cell.
    assert label[0, 4, 4] == label[0, 5, 4]
    assert label[0].amax() == label[0, 4, 4]
    assert label[0, 4, 4] == pytest.approx(torch.exp(torch.tensor(-0.5 * (0.5 / 0.75) ** 2)))


def test_an_absent_target_has_no_label():
    label = score_labels(BOXES, torch.tensor([True, False]), 9, 3.0, 16, 4)
    assert label[0].amax() > 0.5
    assert label[1].amax() == 0


def test_background_may_score_below_zero_for_free():
    labels = torch.tensor([0.0, 0.04, 0.5, 1.0])
    assert hinge_loss(torch.tensor([-3.0, -0.1, 0.5, 1.0]), labels) == 0
    assert hinge_loss(torch.tensor([0.2, 0.0, 0.5, 1.0]), labels) == pytest.approx(0.04 / 4)
    assert hinge_loss(torch.tensor([0.0, 0.0, -0.5, 1.0]), labels) == pytest.approx(1.0 / 4)


def test_every_step_of_the_filter_counts_by_its_weight():
    labels = torch.zeros(1, 1)
    maps = [torch.full((1, 1), value) for value in (1.0, 2.0, 3.0, 4.0)]
    wanted = 100 * 1 + 400 * (4 + 9) / 2 + 100 * 16
    assert filter_loss(maps, labels) == pytest.approx(wanted)
    assert filter_loss(maps[:1], labels) == pytest.approx(100)
    assert filter_loss(maps[:2], labels) == pytest.approx(100 + 400)


def test_proposals_reach_from_near_copies_to_poor_guesses():
    torch.manual_seed(0)
    proposals, iou = draw_proposals(BOXES, 400)
    assert proposals.shape == (2, 400, 4)
    assert iou.min() >= MIN_OVERLAP
    assert iou.max() > 0.97
    assert (iou < 0.5).float().mean() > 0.03
    assert (iou > 0.8).float().mean() > 0.2
    assert torch.allclose(iou, overlaps(proposals, BOXES))
    assert not torch.equal(proposals[0, 0], proposals[0, 1])


def test_overlap_is_predicted_from_minus_one_to_one():
    iou = torch.tensor([[0.0, 0.5, 1.0]])
    assert overlap_loss(torch.tensor([[-1.0, 0.0, 1.0]]), iou) == 0
    assert overlap_loss(torch.zeros(1, 3), iou) == pytest.approx(2 / 3)


def test_the_density_loss_is_least_where_the_density_is_the_label_s():
    torch.manual_seed(1)
    proposals = draw_density_proposals(torch.tensor([[20.0, 30.0, 16.0, 8.0]]), 20_000)
    right = proposals.label.clamp(min=1e-30).log()
    least = density_loss(right, proposals)
    # The entropy of four independent normal numbers of this deviation.
    entropy = 4 * (0.5 * math.log(2 * math.pi * math.e) + math.log(LABEL_SIGMA))
    assert least.item() == pytest.approx(entropy, abs=0.15)
    torch.testing.assert_close(density_loss(right + 3, proposals), least, atol=0.05, rtol=0)
    for wrong in (0.5 * right, 2 * right, torch.zeros_like(right)):
        assert density_loss(wrong, proposals) > least + 0.1


def test_proposals_of_densities_are_boxes_around_the_truth():
    torch.manual_seed(1)
    truth = torch.tensor([[20.0, 30.0, 16.0, 8.0], [5.0, 5.0, 40.0, 40.0]])
    drawn = draw_density_proposals(truth, 4000)
    assert drawn.boxes.shape == (2, 4000, 4)
    assert (drawn.boxes[..., 2:] > 0).all()
    centres = drawn.boxes[..., :2] + drawn.boxes[..., 2:] / 2
    shift = (centres - truth[:, None, :2]) / truth[:, None, 2:]
    torch.testing.assert_close(shift.mean(1), torch.full((2, 2), 0.5), atol=0.03, rtol=0)
    # Half of them deviate by 0.05, half by 0.5.
    assert shift.std(1).mean().item() == pytest.approx((0.5 * (0.05**2 + 0.5**2)) ** 0.5, rel=0.05)
    assert (drawn.density > 0).all()

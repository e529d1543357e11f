# SPDX-License-Identifier: Apache-2.0
"""The constant-velocity filter: what it learns, how sure it is, and when it starts anew."""

from __future__ import annotations

import numpy as np
import pytest

from tracker_ros.spatial.motion import ConstantVelocityFilter

ACCELERATION, SPEED = np.array([2.0, 2.0]), np.array([10.0, 10.0])


def run(times, positions, std=0.1):
    motion = ConstantVelocityFilter()
    for time_s, position in zip(times, positions, strict=True):
        motion.update(time_s, np.array(position), np.eye(2) * std**2, ACCELERATION, SPEED)
    return motion


def line(times):
    return [(3.0 * t, -1.0 * t + 5) for t in times]


def test_a_straight_line_is_continued():
    times = np.arange(40) / 30
    estimate = run(times, line(times)).at(times[-1] + 0.12)
    assert estimate.velocity == pytest.approx([3.0, -1.0], abs=0.05)
    assert estimate.position == pytest.approx(line([times[-1] + 0.12])[0], abs=0.02)


def test_noise_is_smoothed_and_the_covariance_is_honest():
    rng, times = np.random.default_rng(3), np.arange(3000) / 30
    motion, errors = ConstantVelocityFilter(), []
    for time_s, truth in zip(times, np.array(line(times)), strict=True):
        measured = truth + 0.1 * rng.standard_normal(2)
        motion.update(time_s, measured, np.eye(2) * 0.01, ACCELERATION, SPEED)
        errors.append(motion.at(time_s).position - truth)
    covariance = motion.at(times[-1]).position_covariance
    assert np.std(errors[100:]) < 0.07
    # The target really moves straight, so the filter expects more error than there is.
    assert np.std(errors[100:]) ** 2 < covariance[0, 0] < 0.1**2
    assert np.allclose(covariance, covariance.T)
    assert np.linalg.eigvalsh(covariance).min() > 0


def test_uncertainty_grows_with_the_time_ahead():
    motion = run([0.0, 0.1, 0.2], line([0.0, 0.1, 0.2]))
    spread = [motion.at(0.2 + ahead).position_covariance[0, 0] for ahead in (0, 0.05, 0.1, 0.5)]
    assert spread == sorted(spread)
    assert spread[-1] > 4 * spread[0]


def test_the_rate_of_the_measurements_does_not_matter_for_the_uncertainty_ahead():
    fast, slow = np.arange(300) / 100, np.arange(30) / 10
    spread = [run(t, line(t)).at(t[-1] + 0.5).velocity_covariance[0, 0] for t in (fast, slow)]
    assert spread[0] == pytest.approx(spread[1], rel=0.5)


@pytest.mark.parametrize("when", [-5.0, 4.0], ids=["jump back", "long gap"])
def test_it_starts_anew(when):
    times = np.arange(30) / 30
    motion = run([*times, when], [*line(times), (1.0, 2.0)])
    estimate = motion.at(when)
    assert estimate.position == pytest.approx([1.0, 2.0])
    assert estimate.velocity == pytest.approx([0.0, 0.0])


def test_it_starts_anew_after_a_leap():
    times = np.arange(31) / 30
    estimate = run(times, [*line(times[:-1]), (500.0, 2.0)]).at(times[-1])
    assert estimate.position == pytest.approx([500.0, 2.0])
    assert estimate.velocity == pytest.approx([0.0, 0.0])


def test_nothing_is_known_before_the_first_and_long_after_the_last_measurement():
    assert ConstantVelocityFilter().at(0.0) is None
    motion = run([0.0, 0.1], line([0.0, 0.1]))
    assert motion.at(1.0) is not None
    assert motion.at(2.0) is None
    assert motion.at(-2.0) is None


def test_a_second_measurement_at_the_same_time_is_left_out():
    motion = run([0.0, 0.1, 0.1], [*line([0.0, 0.1]), (100.0, 100.0)])
    assert motion.at(0.1).position[0] < 1.0

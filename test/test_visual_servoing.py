# SPDX-License-Identifier: Apache-2.0
"""The law of visual servoing, and a camera that is turned by it."""

from __future__ import annotations

import math
from collections import deque

import cv2
import numpy as np
import pytest

from tracker_ros import create_tracker
from tracker_ros.visual_servoing import STILL, Servo, ServoLimits, turning_rate

STEP_S = 1 / 30
UNBOUNDED = ServoLimits(max_rate=100.0, max_acceleration=1e4, dead_band=0.0)


def rotation(rates, seconds):
    """(3, 3): from the camera before to the camera after it turned at rates about x and y."""
    return cv2.Rodrigues(-np.array([*rates, 0.0]) * seconds)[0]


class Camera:
    """A camera that turns as it is told, a few frames late, before a target far away.

    Args:
        azimuth, elevation: The target at first, degrees to the right and upward.
        delay: Frames from image to motion.
        noise: Standard deviation of the bearing, rad.
    """

    def __init__(self, azimuth, elevation, delay=0, noise=0.0):
        a, e = math.radians(azimuth), math.radians(elevation)
        self.target = np.array(
            [math.sin(a) * math.cos(e), -math.sin(e), math.cos(a) * math.cos(e)]
        )
        self.pending = deque([STILL] * delay)
        self.noise = noise
        self.chance = np.random.default_rng(0)

    @property
    def error(self):
        """Angle between target and optical axis, rad."""
        return math.acos(min(self.target[2], 1.0))

    @property
    def bearing(self):
        return tuple(self.target + self.chance.normal(0.0, 1.0, 3) * self.noise)

    def turn(self, rates):
        self.pending.append(rates)
        self.target = rotation(self.pending.popleft(), STEP_S) @ self.target


def run(camera, servo, seconds, visible=lambda time_s: True, drift=0.0):
    """Turn the camera by the servo. Returns times, errors and rates, one row for each frame."""
    rows = []
    for index in range(round(seconds / STEP_S)):
        time_s = index * STEP_S
        if visible(time_s):
            servo.observe(camera.bearing, time_s)
        rates = servo.command(time_s)
        camera.turn(rates)
        if drift:
            camera.target = rotation((0.0, -drift), STEP_S) @ camera.target
        rows.append((time_s, camera.error, *rates))
    return np.array(rows)


def test_it_turns_towards_the_target():
    up = turning_rate((0.0, -0.2, 1.0), UNBOUNDED)
    assert up[0] > 0 and up[1] == 0
    right = turning_rate((0.2, 0.0, 1.0), UNBOUNDED)
    assert right[1] == pytest.approx(1.5 * math.atan(0.2)) and right[0] == 0
    assert turning_rate((0.0, 0.0, 1.0), UNBOUNDED) == STILL
    assert turning_rate((0.0, 0.0, -1.0), UNBOUNDED)[1] == pytest.approx(1.5 * math.pi)


@pytest.mark.parametrize(
    "bearing", [(0, 0, 0), (math.nan, 0, 1), (0, math.inf, 1), (1, 2, -math.inf)]
)
def test_no_direction_is_no_reason_to_turn(bearing):
    assert turning_rate(bearing, UNBOUNDED) == STILL


def test_the_limit_keeps_the_way_straight():
    limits = ServoLimits(gain=5.0, max_rate=0.4)
    wanted = turning_rate((0.6, 0.3, 1.0), UNBOUNDED)
    rates = turning_rate((0.6, 0.3, 1.0), limits)
    assert max(map(abs, rates)) == pytest.approx(0.4)
    assert rates[0] / rates[1] == pytest.approx(wanted[0] / wanted[1])


@pytest.mark.parametrize("start", [(30, 0), (-25, 18), (140, -40), (180, 0)])
def test_the_error_falls_by_the_gain(start):
    rows = run(Camera(*start), Servo(UNBOUNDED), 2.0)
    expected = Camera(*start).error * np.exp(-1.5 * (rows[:, 0] + STEP_S))
    assert rows[3:, 1] == pytest.approx(expected[3:], rel=0.12)
    assert np.all(np.diff(rows[2:, 1]) < 0)


@pytest.mark.parametrize("delay", [0, 2, 4])
def test_with_limits_delay_and_noise_it_converges(delay):
    limits = ServoLimits()
    rows = run(Camera(40, -20, delay, noise=0.002), Servo(limits), 6.0)
    assert rows[-60:, 1].max() < limits.dead_band + 0.012
    assert np.abs(rows[:, 2:]).max() <= limits.max_rate + 1e-9
    changes = np.linalg.norm(np.diff(rows[:, 2:], axis=0), axis=1)
    assert changes.max() <= limits.max_acceleration * STEP_S * 1.0001


def test_in_the_dead_band_it_stands_still():
    rows = run(Camera(0.5, 0.0, noise=0.0005), Servo(), 1.0)
    assert np.all(rows[:, 2:] == 0.0)


def test_a_moving_target_stays_within_its_speed_over_the_gain():
    rows = run(Camera(0.0, 0.0), Servo(), 8.0, drift=0.3)
    assert rows[-1, 1] == pytest.approx(0.3 / 1.5 + 0.01, rel=0.1)


@pytest.mark.parametrize("delay", [0, 4])
def test_it_never_runs_away_when_the_target_is_lost(delay):
    lost_at, limits = 0.5, ServoLimits()
    rows = run(Camera(80, 10, delay), Servo(limits), 3.0, visible=lambda t: t < lost_at)
    assert np.abs(rows[rows[:, 0] < lost_at, 3]).max() > 0.5
    after = rows[rows[:, 0] > lost_at + limits.timeout]
    assert np.all(after[:, 2:] == 0.0)
    assert np.ptp(after[delay:, 1]) < 1e-9


def test_what_is_known_to_be_lost_stops_it_at_once():
    servo = Servo()
    servo.observe((1.0, 0.0, 1.0), 0.0)
    servo.command(0.0)
    assert servo.command(0.1)[1] > 0.0
    servo.lose()
    assert servo.command(0.1) == STILL
    assert not servo.sees(0.1)
    servo.observe((1.0, 0.0, 1.0), 5.0)
    assert servo.command(5.0)[1] <= 4.0 * 0.1, "a long pause is no reason to jump"


def test_an_image_is_turned_until_the_target_is_in_its_centre():
    """The camera sees a part of a wide picture; the embedded tracker finds the target in it."""
    width, height, focal = 320, 240, 280.0
    rng = np.random.default_rng(4)
    world = cv2.resize(
        rng.integers(40, 200, (24, 36, 3)).astype(np.uint8),
        (960, 640),
        interpolation=cv2.INTER_CUBIC,
    )
    cv2.circle(world, (600, 250), 24, (235, 40, 50), -1)
    cv2.rectangle(world, (588, 238), (600, 262), (250, 240, 40), -1)
    left, top = 400.0, 250.0

    def see():
        return cv2.getRectSubPix(world, (width, height), (left + width / 2, top + height / 2))

    tracker = create_tracker("ostrack_tiny", backend="torch")
    tracker.initialize(see(), (600 - 24 - left, 250 - 24 - top, 48.0, 48.0))
    servo = Servo(ServoLimits(gain=3.0))
    errors = []
    for index in range(90):  # 114 px at most at 9 px a frame, and e-foldings of 10 frames
        x, y, w, h = tracker.track(see()).box
        right, down = x + w / 2 - width / 2, y + h / 2 - height / 2
        errors.append(math.hypot(right, down))
        servo.observe((right / focal, down / focal, 1.0), index * STEP_S)
        rates = servo.command(index * STEP_S)
        left += rates[1] * STEP_S * focal
        top -= rates[0] * STEP_S * focal
    assert errors[0] > 60
    # It stands still within the dead band. A still picture moves the box by less than a pixel.
    assert errors[-1] < ServoLimits().dead_band * focal + 1.0
    # The box is somewhat taller than the target: its centre may be off by a quarter of its side.
    assert math.hypot(left + width / 2 - 600, top + height / 2 - 250) < 48 / 4

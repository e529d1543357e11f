# SPDX-License-Identifier: Apache-2.0
"""Visual servoing: turning rates that bring a target into the centre of the image.

The camera is turned about the axis that brings its optical axis to the target the shortest way,
in proportion to the angle between them. Without roll, this is image-based visual servoing of one
point (Chaumette and Hutchinson, Visual Servo Control, Part I, 2006), written on the sphere: it
holds for wide angles, too, and the target moves straight to the centre.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

Rates = tuple[float, float]

STILL: Rates = (0.0, 0.0)


@dataclass(frozen=True)
class ServoLimits:
    """What the servo may do."""

    # rate for each unit of error, 1/s. The error falls to a third in 1 / gain seconds. A target
    # that moves by v rad/s stays v / gain from the centre.
    gain: float = 1.5
    max_rate: float = 1.0  # greatest rate about each axis, rad/s
    max_acceleration: float = 4.0  # greatest change of the rates, rad/s²
    dead_band: float = 0.01  # error that is left alone, rad
    timeout: float = 0.3  # seconds without a bearing after which the camera stands still


def turning_rate(bearing: tuple[float, float, float], limits: ServoLimits) -> Rates:
    """Return the rates that turn the camera to a bearing, before the limit of acceleration.

    The bearing is a direction of any length in the optical frame (right, down, forward). The rates
    are about the camera's x and y axes, rad/s: positive ones turn it up and to the right. They are
    zero for a bearing that is zero or not finite.
    """
    right, down, forward = bearing
    aside = math.hypot(right, down)
    if not math.isfinite(aside + forward) or aside + abs(forward) == 0.0:
        return STILL
    # Straight behind every way is the shortest: to the right.
    axis = (-down / aside, right / aside) if aside > 0.0 else (0.0, 1.0)
    error = max(math.atan2(aside, forward) - limits.dead_band, 0.0)
    speed = limits.gain * error
    fastest = max(abs(axis[0]), abs(axis[1])) * speed
    if fastest > limits.max_rate:
        speed *= limits.max_rate / fastest  # both axes, so that the way stays straight
    return axis[0] * speed, axis[1] * speed


class Servo:
    """Keeps a target centred, within limits that may change. Times are in seconds.

    It stands still without a target.
    """

    def __init__(self, limits: ServoLimits | None = None) -> None:
        self.limits = limits or ServoLimits()
        self._bearing: tuple[float, float, float] | None = None
        self._seen = -math.inf
        self._rates = STILL
        self._commanded: float | None = None

    def observe(self, bearing: tuple[float, float, float], time_s: float) -> None:
        """Take the target's bearing, as of `turning_rate`."""
        self._bearing, self._seen = bearing, time_s

    def lose(self) -> None:
        """Take that the target cannot be seen: stand still at once."""
        self._bearing = None

    def sees(self, time_s: float) -> bool:
        """Whether there is a bearing that is not too old."""
        return self._bearing is not None and time_s - self._seen <= self.limits.timeout

    def command(self, time_s: float) -> Rates:
        """Return the rates from now on, rad/s, as of `turning_rate`.

        They change by the greatest acceleration at most. Only to stand still they fall to zero at
        once.
        """
        elapsed = 0.0 if self._commanded is None else max(time_s - self._commanded, 0.0)
        self._commanded = time_s
        if self._bearing is None or not self.sees(time_s):
            self._rates = STILL
            return STILL
        wanted = turning_rate(self._bearing, self.limits)
        change = (wanted[0] - self._rates[0], wanted[1] - self._rates[1])
        size, most = math.hypot(*change), self.limits.max_acceleration * min(elapsed, 0.1)
        share = 1.0 if size <= most else most / size
        self._rates = (
            self._rates[0] + share * change[0],
            self._rates[1] + share * change[1],
        )
        return self._rates

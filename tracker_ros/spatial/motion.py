# SPDX-License-Identifier: Apache-2.0
"""A Kalman filter for things that move at a nearly constant velocity.

The model is the continuous white-noise acceleration of Y. Bar-Shalom, X. R. Li and T. Kirubarajan,
"Estimation with Applications to Tracking and Navigation", 2001, section 6.2.2. Its noise does not
depend on the rate of the measurements, so a camera that drops images needs no other setting.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_MAX_GAP_S = 1.0
_GATE = 6.0


@dataclass(frozen=True)
class MotionEstimate:
    """Position and velocity at a time."""

    position: np.ndarray  # (n,) float64
    velocity: np.ndarray  # (n,) float64, per second
    position_covariance: np.ndarray  # (n, n) float64
    velocity_covariance: np.ndarray  # (n, n) float64


class ConstantVelocityFilter:
    """Estimates position and velocity in n dimensions from positions.

    It starts anew after a second without measurements, when time jumps back, and when a
    measurement is 6 standard deviations from where it was expected: then the motion has changed
    in a way that the model does not describe, as when a tracker moves to another place.
    """

    def __init__(self) -> None:
        self._time_s = 0.0
        self._estimate: MotionEstimate | None = None
        self._cross = np.empty((0, 0))  # covariance of position and velocity
        self._density = np.empty((0, 0))
        self._later: tuple[float, MotionEstimate, np.ndarray] | None = None  # latest prediction

    def update(
        self,
        time_s: float,
        position: np.ndarray,
        covariance: np.ndarray,
        acceleration: np.ndarray,
        initial_speed: np.ndarray,
    ) -> None:
        """Take a measurement; a second one at the same time is left out.

        Args:
            time_s: When, seconds.
            position: (n,) where.
            covariance: (n, n) of the position.
            acceleration: (n,) square root of the spectral density of the acceleration: a second
                later the velocity is uncertain by this much.
            initial_speed: (n,) standard deviation of the velocity at the start.
        """
        gap, predicted = time_s - self._time_s, None
        if self._estimate is not None and self._estimate.position.shape == position.shape:
            if gap == 0.0:
                return
            if 0.0 < gap <= _MAX_GAP_S:
                predicted, cross = self._predict(self._estimate, gap)
        self._time_s, self._later = time_s, None
        self._density = np.diag(np.square(acceleration))
        if predicted is None or not self._correct(predicted, cross, position, covariance):
            self._cross = np.zeros(covariance.shape)
            speed = np.diag(np.square(initial_speed))
            self._estimate = MotionEstimate(position, np.zeros(len(position)), covariance, speed)

    def at(self, time_s: float) -> MotionEstimate | None:
        """Return the estimate at a time; None if no measurement is within a second of it."""
        ahead = time_s - self._time_s
        if self._estimate is None or ahead == 0.0:
            return self._estimate
        return self._predict(self._estimate, ahead)[0] if abs(ahead) <= _MAX_GAP_S else None

    def _predict(self, now: MotionEstimate, ahead: float) -> tuple[MotionEstimate, np.ndarray]:
        """Return the estimate some seconds later, and covariance of position and velocity."""
        if self._later is not None and self._later[0] == ahead:
            return self._later[1:]
        t, noise = ahead, self._density * max(ahead, 0.0)
        pp, pv, vv = now.position_covariance, self._cross, now.velocity_covariance
        later = MotionEstimate(
            now.position + t * now.velocity,
            now.velocity,
            pp + t * (pv + pv.T) + t * t * vv + (t * t / 3) * noise,
            vv + noise,
        )
        self._later = (ahead, later, pv + t * vv + (t / 2) * noise)
        return self._later[1:]

    def _correct(
        self,
        predicted: MotionEstimate,
        cross: np.ndarray,
        position: np.ndarray,
        covariance: np.ndarray,
    ) -> bool:
        """Correct a prediction by a measurement. Returns False if it is too far away."""
        pp, vv = predicted.position_covariance, predicted.velocity_covariance
        innovation = position - predicted.position
        weight = np.linalg.inv(pp + covariance)
        if innovation @ weight @ innovation > len(position) * _GATE**2:
            return False
        gain, velocity_gain = pp @ weight, cross.T @ weight
        self._estimate = MotionEstimate(
            predicted.position + gain @ innovation,
            predicted.velocity + velocity_gain @ innovation,
            gain @ covariance,
            vv - velocity_gain @ cross,
        )
        self._cross = cross - gain @ cross
        return True

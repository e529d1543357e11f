# SPDX-License-Identifier: Apache-2.0
"""Qualities of service of the package's topics."""

from __future__ import annotations

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

__all__ = ["keep_last"]


def keep_last(depth: int, *, reliable: bool = True, latched: bool = False) -> QoSProfile:
    """A new profile that keeps the newest messages.

    Each entity needs its own: rclpy writes what parameters override into the profile it is given.

    Args:
        depth: How many.
        reliable: Send again what was lost.
        latched: Late subscribers get them too (transient local).
    """
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )

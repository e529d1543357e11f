# SPDX-License-Identifier: Apache-2.0
"""Which earlier frames a frame is predicted from, and which must be kept for later ones.

Paper: Lai, Lu, Xie, CVPR 2020, section 3.3: a few first frames stay in memory for good, and every
other one of the latest. Frames count from 0, the one whose mask is given.
"""

from __future__ import annotations

from tracker_ros.models.mast.config import PropagationParameters


def _long_term(last: int, parameters: PropagationParameters) -> set[int]:
    if parameters.reference_mode == "last":
        return set()
    frames = {frame for frame in parameters.long_term_frames if frame <= last}
    return {0} if parameters.reference_mode == "first_and_recent" else frames


def _reach(parameters: PropagationParameters) -> int:
    """How far back the recent frames go from the last one."""
    if parameters.reference_mode == "last":
        return 0
    return (parameters.recent_frames - 1) * parameters.recent_step


def reference_frames(frame: int, parameters: PropagationParameters) -> list[int]:
    """Frames that `frame` (1 or later) is predicted from, ascending."""
    last = frame - 1
    recent = range(last, last - _reach(parameters) - 1, -parameters.recent_step)
    return sorted(_long_term(last, parameters) | {f for f in recent if f > 0 or f == last})


def frames_to_keep(frame: int, parameters: PropagationParameters) -> set[int]:
    """Frames up to `frame` that a later one may be predicted from; their number is bounded."""
    recent = range(max(0, frame - _reach(parameters)), frame + 1)
    return _long_term(frame, parameters) | set(recent)

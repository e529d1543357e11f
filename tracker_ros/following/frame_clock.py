# SPDX-License-Identifier: Apache-2.0
"""The time of each frame of a camera: its stamp, or its arrival where the stamps tell no time.

Targets are judged by stamps, so that no target is lost because a recording is played slowly. But
drivers deliver frames out of order, computers set their clocks, and some cameras stamp every image
alike. By such stamps a target that has gone would never be lost, or one in sight be lost at once.
"""

from __future__ import annotations

from collections import deque
from statistics import median

_MAX_LATE_S = 0.5
_LATE_IN_A_ROW = 4
_MAX_AHEAD_S = 30.0
_FASTEST_PLAYBACK = 20.0
_WINDOW = 12
_JUMPS = 3
# Stamps advance too slowly if they tell of at least 80 Hz and images come at a quarter of that, or
# of at least 33 Hz and an eighth: few cameras are so fast. Slower stamps may belong to a recording
# that is played slowly. In each pair: most seconds between stamps, and the least such quotient.
_TOO_SLOW = ((0.0125, 4.0), (0.03, 8.0))
_MIN_ARRIVAL_S = 1e-3


class FrameClock:
    """Follows the stamps of one camera.

    A stamp that is up to half a second behind the newest one is late, unless several in a row are:
    then the clock was set. Any other stamp that is behind has jumped back, as when a recording
    starts again; one far ahead has jumped, too, unless images were missing for that long.

    Attributes:
        sequence: Number of times that the stamps have jumped.
        late: Number of frames that came after one with a later stamp.
        fault: Why times are those of arrival; empty if they are the stamps.
    """

    def __init__(self) -> None:
        self.sequence = 0
        self.late = 0
        self.fault = ""
        self._arrival_s: float | None = None
        self._newest_ns = self._last_ns = 0
        self._time_s = self._offset_s = 0.0
        self._late_in_a_row = 0
        self._intervals: deque[tuple[float, float]] = deque(maxlen=_WINDOW)
        self._jumps: deque[bool] = deque(maxlen=_WINDOW)

    def time_of(self, stamp_ns: int, arrival_s: float) -> float:
        """Return the time of the next frame, seconds.

        Args:
            stamp_ns: Its stamp, nanoseconds; 0 if it has none.
            arrival_s: When it arrived, seconds on a clock that only grows.
        """
        if self._arrival_s is None:
            self._arrival_s = arrival_s
            self._newest_ns = self._last_ns = stamp_ns
            self._time_s = stamp_ns / 1e9 if stamp_ns else arrival_s
            return self._time_s
        waited_s = arrival_s - self._arrival_s
        self._arrival_s = arrival_s
        if stamp_ns == 0 or self._last_ns == 0:
            self._last_ns = self._newest_ns = stamp_ns
            self._offset_s = self._time_s + waited_s - stamp_ns / 1e9
            return self._advance(waited_s)
        jumped = self._has_jumped(stamp_ns, waited_s)
        self._jumps.append(jumped)
        self._intervals.append(((stamp_ns - self._last_ns) / 1e9, waited_s))
        self._last_ns = stamp_ns
        self.fault = self._find_fault()
        if self.fault:
            self._newest_ns = stamp_ns if jumped else max(stamp_ns, self._newest_ns)
            self._offset_s = self._time_s + waited_s - stamp_ns / 1e9
            return self._advance(waited_s)
        if jumped:
            self.sequence += 1
            # Targets keep their time when it jumps back; a jump ahead would lose them.
            ahead = stamp_ns > self._newest_ns
            self._offset_s = self._time_s + waited_s - stamp_ns / 1e9 if ahead else 0.0
            self._newest_ns = stamp_ns
        time_s = stamp_ns / 1e9 + self._offset_s
        if stamp_ns < self._newest_ns:
            self.late += 1
            return time_s
        self._newest_ns = stamp_ns
        self._time_s = time_s
        return time_s

    def _advance(self, waited_s: float) -> float:
        self._time_s += waited_s
        return self._time_s

    def _has_jumped(self, stamp_ns: int, waited_s: float) -> bool:
        """Whether a stamp continues no sequence."""
        ahead_s = (stamp_ns - self._newest_ns) / 1e9
        if -_MAX_LATE_S <= ahead_s < 0 and stamp_ns > self._last_ns:
            self._late_in_a_row += 1
        else:
            self._late_in_a_row = int(ahead_s < 0)
        return (
            ahead_s < -_MAX_LATE_S
            or self._late_in_a_row >= _LATE_IN_A_ROW
            or ahead_s > _MAX_AHEAD_S + _FASTEST_PLAYBACK * waited_s
        )

    def _find_fault(self) -> str:
        """Return why the last stamps tell no time; empty if they do."""
        if sum(self._jumps) >= _JUMPS:
            return "jump back and forth, as if two cameras with different clocks publish there"
        if len(self._intervals) < _WINDOW // 2:
            return ""
        stamps_s = median(abs(stamp) for stamp, _ in self._intervals)
        arrival_s = median(arrival for _, arrival in self._intervals)
        too_slow = any(
            stamps_s <= interval_s and arrival_s >= max(_MIN_ARRIVAL_S, factor * stamps_s)
            for interval_s, factor in _TOO_SLOW
        )
        if not too_slow:
            return ""
        if stamps_s == 0.0:
            return "do not advance"
        return f"advance {arrival_s / stamps_s:.0f} times too slowly"

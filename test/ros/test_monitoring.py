# SPDX-License-Identifier: Apache-2.0
"""Tests of the meters of rates and delays."""

from __future__ import annotations

import pytest

from tracker_ros.nodes.monitoring import RateMeter, Window


def test_rates_and_quantiles(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("tracker_ros.nodes.monitoring.time.monotonic", lambda: now[0])
    meter = RateMeter(window_s=2.0)
    assert meter.hertz == 0.0
    for _ in range(11):
        meter.tick()
        now[0] += 0.1
    assert meter.hertz == pytest.approx(10.0)
    now[0] += 1.5
    assert meter.hertz == pytest.approx(10.0)
    now[0] += 5.0
    assert meter.hertz == 0.0

    window = Window(size=4)
    assert window.quantile(0.5) == 0.0
    for value in (9.0, 4.0, 1.0, 3.0, 2.0):
        window.add(value)
    assert [window.quantile(q) for q in (0.0, 0.5, 1.0)] == [1.0, 3.0, 4.0]
    window.clear()
    assert window.quantile(0.5) == 0.0

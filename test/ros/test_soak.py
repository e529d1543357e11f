# SPDX-License-Identifier: Apache-2.0
"""A short soak, as a user runs it; and its judges, which must find what is wrong."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tools.soak.judge import MIN_RESTS, growth, log_faults


@pytest.mark.slow
def test_two_minutes(tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "tools.soak",
            "--minutes",
            "2",
            "--backend",
            "torch",
            "--out",
            str(tmp_path),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    verdict = json.loads((tmp_path / "soak.json").read_text())
    assert verdict["passed"]
    assert len(verdict["actions"]) == 29, "every action was done"
    assert min(verdict["requests"].values()) > 0
    assert min(verdict["boxes"], verdict["statuses"], verdict["images"]["broken"]) > 0
    assert min(verdict["places"].values()) > 0


def thrice(*readings: float) -> list[float]:
    """Return each reading three times: as many as are judged."""
    return [reading for reading in readings for _ in range(3)]


def test_growth_is_from_the_second_quarter_to_the_last():
    assert growth(thrice(50.0, 60.0, 100.0, 100.0, 300.0, 100.0, 106.0, 106.0)) == pytest.approx(
        0.06
    )
    assert growth(thrice(90.0, 90.0, 100.0, 100.0, 80.0, 80.0, 70.0, 70.0)) == pytest.approx(-0.3)


def test_growth_is_not_judged_by_few_readings():
    assert growth([100.0] * (MIN_RESTS - 1)) is None
    assert growth([100.0] * MIN_RESTS) == 0.0


@pytest.mark.parametrize(
    "line",
    [
        "Traceback (most recent call last):",
        "[ERROR] [17.1] [track]: fault in the worker, which continues: KeyError('a')",
        "[ERROR] [17.1] [track]: on_activate failed: RuntimeError('x')",
        "[ERROR] [17.1] [track]: image on /image skipped: tracking a 4x4 frame failed: Boom()",
        "[ERROR] [17.1] [track]: model ostrack_tiny cannot be loaded: no memory",
        "[WARN] [17.1] [track]: select_target refused, MODEL_FAILED: the model failed on this "
        "selection: Boom()",
        "[ERROR] [17.1] [elsewhere]: anything",
    ],
)
def test_faults_are_found_in_a_log(line):
    good = "[INFO] [17.2] [track]: active: images from /image"
    assert log_faults("\n".join([good, line, line.replace("17.1", "17.3")])) == [line]


@pytest.mark.parametrize(
    "line",
    [
        "[ERROR] [17.1] [track]: image on /image skipped: step is 10 bytes, wanted at least 960",
        "[ERROR] [17.1] [track]: image on /image skipped: image encoding '' is not supported, "
        "expected one of rgb8, bgr8",
        "[ERROR] [17.1] [track]: image on /image/compressed skipped: compressed image of 0 bytes",
        "[ERROR] [17.1] [track]: image on /image skipped: a bayer_rggb8 image of 5x5 pixels",
        "[ERROR] [17.1] [track]: not activated: model ostrack_tiny is still loading after 4.0 s",
        "[ERROR] [17.1] [track]: model ostrack_tiny cannot be loaded: no_such_file.safetensors is",
        "[WARN] [17.1] [track]: select_target refused, INVALID_BOX: the box is empty",
    ],
)
def test_what_the_soak_provokes_is_no_fault(line):
    assert log_faults(line) == []

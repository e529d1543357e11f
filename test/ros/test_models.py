# SPDX-License-Identifier: Apache-2.0
"""Every model whose weights are embedded works in the node, with nothing but its name changed."""

from __future__ import annotations

import numpy as np
import pytest
from sensor_msgs.msg import Image

from tracker_interfaces.msg import TargetStatus
from tracker_ros import model_card, model_names


@pytest.mark.parametrize("name", [name for name in model_names() if model_card(name).weights])
def test_model_follows_loses_and_finds_again(name, make_probe, run_program):
    probe = make_probe(f"/{name}")
    run_program(
        "track",
        "--ros-args",
        *("-r", f"__ns:=/{name}", "-p", f"model:={name}"),
        *("-p", "debug_score_encoding:=32FC1", "-p", "debug_rate:=0.0"),
    )
    scores: list[Image] = []
    probe.listen(Image, "debug/score", scores)
    probe.connect()
    target_id = probe.start_following()
    target = probe.follow(8)
    assert target.results[0].hypothesis.class_id == name
    assert probe.follows(target)
    assert probe.statuses[-1].state == TargetStatus.TRACKING
    probe.until(lambda: probe.show() and scores, "the score map")
    values = np.frombuffer(scores[-1].data, np.float32).reshape(scores[-1].height, -1)
    assert 0.0 <= values.min() < values.max() <= 1.0

    probe.until(
        lambda: probe.show(visible=False).state != TargetStatus.TRACKING, "doubt without a target"
    )
    probe.until(lambda: probe.show().state == TargetStatus.TRACKING, "the target again")
    assert probe.statuses[-1].target_id == target_id

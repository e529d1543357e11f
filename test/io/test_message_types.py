# SPDX-License-Identifier: Apache-2.0
"""Tests of the message types that are known without ROS."""

from __future__ import annotations

from pathlib import Path

import pytest

from tracker_ros.io.message_types import common_types

INTERFACES = Path(__file__).resolve().parents[2] / "tracker_interfaces"


@pytest.mark.parametrize("name", ["TargetStatus", "TargetStatusArray", "TargetDirection"])
def test_our_messages_are_those_of_the_interface_package(name):
    path = INTERFACES / "msg" / f"{name}.msg"
    lines = [line.partition("#")[0].split() for line in path.read_text().splitlines()]
    declared = [words[1] for words in lines if words and "=" not in words[1]]
    constants = dict(words[1].split("=") for words in lines if words and "=" in words[1])
    known = common_types().fielddefs[f"tracker_interfaces/msg/{name}"]
    assert [name for name, _ in known[1]] == declared
    assert {name: str(value) for name, _, value in known[0]} == constants

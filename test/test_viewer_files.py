# SPDX-License-Identifier: Apache-2.0
"""The files for RViz and Foxglove: known classes, and topics that the tracker publishes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

CONFIG = Path(__file__).parents[1] / "config"
# What the tracker publishes for RViz's displays, and the panels of Foxglove that read the rest.
TOPICS = {
    "rviz_default_plugins/Image": {"debug/image", "debug/score"},
    "rviz_default_plugins/MarkerArray": {"target_markers"},
}
PANELS = {"Image", "3D", "Plot", "StateTransitions", "RosOut"}
QOS = {
    "Reliability Policy": {"Reliable", "Best Effort", "System Default"},
    "Durability Policy": {"Volatile", "Transient Local", "System Default"},
    "History Policy": {"Keep Last", "Keep All", "System Default"},
}


@pytest.fixture(scope="module")
def layout():
    """Foxglove's layout."""
    return json.loads((CONFIG / "foxglove.json").read_text(encoding="utf-8"))


def test_rviz_shows_topics_of_the_tracker():
    manager = yaml.safe_load((CONFIG / "track.rviz").read_text())["Visualization Manager"]
    displays = manager["Displays"]
    shown = {display["Class"]: set() for display in displays if "Topic" in display}
    for display in displays:
        assert display["Enabled"] is display["Value"] is True
        if "Topic" not in display:
            assert display["Class"] in ("rviz_default_plugins/Axes", "rviz_default_plugins/Grid")
            continue
        topic = display["Topic"]
        shown[display["Class"]].add(topic["Value"])
        assert topic["Depth"] >= 1
        for name, words in QOS.items():
            assert topic[name] in words
    assert shown == TOPICS
    assert len({display["Name"] for display in displays}) == len(displays)


def panels_of(part):
    """The panels in a part of the layout."""
    if isinstance(part, str):
        return [part]
    assert part["direction"] in ("row", "column")
    assert 0 < part["splitPercentage"] < 100
    return panels_of(part["first"]) + panels_of(part["second"])


def test_foxglove_lays_each_panel_out_once(layout):
    assert sorted(panels_of(layout["layout"])) == sorted(layout["configById"])
    assert {name.partition("!")[0] for name in layout["configById"]} == PANELS


def test_foxglove_shows_boxes_markers_score_and_state(layout):
    panels = layout["configById"]
    assert set(panels["Image!target"]["imageMode"]["annotations"]) == {"/target_annotations"}
    assert set(panels["3D!targets"]["topics"]) == {"/target_markers"}
    (score,) = panels["Plot!score"]["paths"]
    (state,) = panels["StateTransitions!state"]["paths"]
    assert (score["value"], score["enabled"]) == ("/target_status.score", True)
    assert state["value"] == "/target_status.state"

# SPDX-License-Identifier: Apache-2.0
"""Transitions, loading, and parameters that change while the node lives."""

from __future__ import annotations

import threading

import pytest
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import GetState
from rclpy.parameter import Parameter

from tracker_interfaces.msg import TargetStatus, TargetStatusArray
from tracker_interfaces.srv import SelectTarget
from tracker_ros.nodes.node_main import NodeStartError
from tracker_ros.nodes.track import TrackNode

BOX = (50.0, 50.0, 40.0, 40.0)
Answer = SelectTarget.Response


class Gate:
    """Makes the model, which takes until the gate is opened."""

    def __init__(self, tracker):
        self.tracker = tracker
        self.opened = threading.Event()
        self.error = None
        self.calls = 0

    def __call__(self, parameters):
        self.calls += 1
        assert self.opened.wait(60)
        if self.error:
            raise self.error
        return self.tracker


@pytest.fixture
def gate(tiny_tracker):
    made = Gate(tiny_tracker)
    yield made
    made.opened.set()


@pytest.fixture
def gated(spin, make_probe, gate):
    """The probe beside a node in this process that waits for transitions and for the gate."""
    manual = [Parameter("autostart", value=False)]
    spin(
        lambda: TrackNode(
            gate, activation_patience_s=0.2, namespace="gated", parameter_overrides=manual
        )
    )
    return make_probe("/gated")


def activate(probe):
    """Activate when the model is loaded, however long that takes."""
    probe.until(lambda: probe.change(Transition.TRANSITION_ACTIVATE), "activation")
    probe.connect()


def test_one_life_from_unconfigured_to_shut_down(gated, gate):
    probe = gated
    images = probe.node.resolve_topic_name("image")
    refused = probe.select(BOX)
    assert (refused.code, refused.success, refused.target_id) == (Answer.NOT_ACTIVE, False, "")
    probe.until(lambda: any(refused.message in log.msg for log in probe.logs), "a log of it")
    assert probe.remove("1").code == Answer.NOT_ACTIVE
    assert not probe.clear().success
    assert not probe.enable(True).success

    assert probe.change(Transition.TRANSITION_CONFIGURE), "does not wait for the model"
    probe.until(
        lambda: any(s.state == TargetStatus.LOADING for s in probe.statuses), "status LOADING"
    )
    assert probe.select(BOX).code == probe.remove("1").code == Answer.LOADING
    assert not probe.change(Transition.TRANSITION_ACTIVATE), "the model is still loading"

    gate.opened.set()
    probe.until(lambda: probe.statuses[-1].state == TargetStatus.IDLE, "the end of loading")
    assert probe.latched_message(TargetStatus, "target_status").state == TargetStatus.IDLE
    assert probe.latched_message(TargetStatusArray, "target_statuses").statuses == []
    assert probe.select(BOX).code == Answer.NOT_ACTIVE
    assert probe.node.count_subscribers(images) == 0

    for _ in range(2):
        activate(probe)
        target_id = probe.start_following()
        assert probe.follow(2).id == target_id
        assert probe.change(Transition.TRANSITION_DEACTIVATE)
        probe.until(lambda: probe.node.count_subscribers(images) == 0, "the end of subscribing")
        probe.until(lambda: probe.statuses[-1].state == TargetStatus.IDLE, "IDLE")
        assert probe.select(BOX).code == Answer.NOT_ACTIVE
    assert gate.calls == 1, "deactivating keeps the model"

    assert probe.change(Transition.TRANSITION_CLEANUP)
    assert probe.set(model="grm_tiny", score_found=0.55) == [(True, ""), (True, "")]
    gate.error = ValueError("weights are broken")
    assert probe.change(Transition.TRANSITION_CONFIGURE)
    probe.until(
        lambda: probe.level_of("model") == (b"\x02", "grm_tiny failed: weights are broken"),
        "diagnostics ERROR",
    )
    assert not probe.change(Transition.TRANSITION_ACTIVATE)
    refused = probe.select(BOX)
    assert refused.code == probe.remove("1").code == Answer.MODEL_FAILED
    assert "weights are broken" in refused.message

    gate.error = None
    assert probe.change(Transition.TRANSITION_CLEANUP)
    assert probe.set(model="ostrack_tiny") == [(True, "")]
    assert probe.change(Transition.TRANSITION_CONFIGURE)
    activate(probe)
    probe.start_following()
    probe.follow(1)
    assert probe.change(Transition.TRANSITION_ACTIVE_SHUTDOWN)
    assert probe.select(BOX).code == Answer.NOT_ACTIVE


def test_autostart_is_active_only_after_the_model_is_warm(make_probe, spin, gate):
    spin(lambda: TrackNode(gate, namespace="starting"))
    probe = make_probe("/starting")
    states = probe.node.create_client(GetState, "track/get_state")

    def state():
        return probe.call(states, GetState.Request()).current_state.label

    probe.until(lambda: gate.calls, "loading")
    assert state() == "inactive"
    gate.opened.set()
    probe.until(lambda: state() == "active", "active")


@pytest.mark.parametrize(
    "transition",
    [Transition.TRANSITION_ACTIVATE, Transition.TRANSITION_CONFIGURE, 250],
)
def test_a_wrong_transition_is_refused(probe, transition):
    target_id = probe.start_following()
    assert not probe.change(transition)
    status = probe.show()
    assert (status.state, status.target_id) == (TargetStatus.TRACKING, target_id)
    probe.until(lambda: any(f"transition {transition} " in log.msg for log in probe.logs), "a log")


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("score_found", 1.5, "1.0"),
        ("score_found", 2, "from 0 to 1"),
        ("score_lost", 0.9, "score_found"),
        ("lost_after", float("nan"), "3600"),
        ("debug_rate", -1, "from 0 to 1000"),
        ("debug_scale", "big", "a number from 0.05 to 4"),
        ("debug_score_encoding", "jpeg", "'32FC1'"),
        ("buffer_seconds", True, "a number"),
        ("model", "nonsense", "the name of a model"),
        ("model", "grm_tiny", "clean the node up"),
        ("device", "cpu", "clean the node up"),
        ("model_options", "seed=1", "clean the node up"),
        ("autostart", False, "when the node is started"),
    ],
)
def test_parameters_are_refused_with_value_and_remedy(probe, name, value, remedy):
    ((accepted, reason),) = probe.set(**{name: value})
    assert not accepted
    for word in (name, f"{value!r}", remedy):
        assert word in reason


def test_integers_are_numbers_too(probe):
    assert probe.set(debug_rate=5, buffer_seconds=4, lost_after=2) == [(True, "")] * 3


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("backend", "onnx"),
        ("precision", "fp8"),
        ("device", "gpu"),
        ("score_found", "high"),
        ("score_lost", 0.8),
        ("model", 5),
        ("model_options", "seed"),
    ],
)
def test_a_bad_parameter_at_start_is_refused(name, value):
    with pytest.raises(NodeStartError, match=name):
        TrackNode(namespace="bad", parameter_overrides=[Parameter(name, value=value)])

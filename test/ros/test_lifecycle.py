# SPDX-License-Identifier: Apache-2.0
"""Transitions, start-up, shut-down, parameters: the node's own life."""

from __future__ import annotations

import signal
import threading
import time

import pytest
from delegating_tracker import DelegatingTracker
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import GetState

from tracker_interfaces.msg import TargetStatus
from tracker_ros.nodes import monitoring as input_watch
from tracker_ros.nodes import track
from tracker_ros.nodes.services import passes_by_itself
from tracker_ros.nodes.track import TrackNode

BOX = (50.0, 50.0, 40.0, 40.0)


def unmanaged(make_tracker):
    """A node that waits for transitions."""

    def make():
        node = TrackNode(make_tracker)
        node._starting = False
        return node

    return make


@pytest.fixture
def gate(tiny_tracker):
    """A way to make the model that takes until the gate is opened."""

    class Gate:
        def __init__(self):
            self.opened = threading.Event()
            self.error = None
            self.calls = 0

        def __call__(self, parameters):
            self.calls += 1
            assert self.opened.wait(30)
            if self.error:
                raise self.error
            return tiny_tracker

    made = Gate()
    yield made
    made.opened.set()


def test_one_life_from_unconfigured_to_shut_down(make_probe, spin, gate):
    probe = make_probe("")
    spin(unmanaged(gate))
    images = probe.node.resolve_topic_name("image")
    refused = probe.select(BOX)
    assert not refused.success
    assert "inactive" in refused.message
    assert "configure" in refused.message
    probe.until(
        lambda: any("refused for now: the tracker is inactive" in log.msg for log in probe.logs),
        "a log of the refusal",
    )
    for response in (probe.clear(), probe.enable(True)):
        assert not response.success
        assert "inactive" in response.message

    begin = time.monotonic()
    assert probe.change(Transition.TRANSITION_CONFIGURE)
    assert time.monotonic() - begin < 2.0, "configure must not wait for the model"
    probe.until(
        lambda: any(s.state == TargetStatus.LOADING for s in probe.statuses), "status LOADING"
    )
    refused = probe.select(BOX)
    assert not refused.success
    assert "ostrack_tiny is still loading" in refused.message

    gate.opened.set()
    probe.until(lambda: probe.statuses[-1].state == TargetStatus.IDLE, "the end of loading")
    assert [status.state for status in probe.told_late()] == [TargetStatus.IDLE]
    refused = probe.select(BOX)
    assert not refused.success
    assert "inactive: activate" in refused.message
    assert probe.node.count_subscribers(images) == 0

    for _ in range(2):
        assert probe.change(Transition.TRANSITION_ACTIVATE)
        probe.connect()
        target_id = probe.start_following()
        assert probe.follow(2).id == target_id
        assert probe.change(Transition.TRANSITION_DEACTIVATE)
        probe.until(lambda: probe.node.count_subscribers(images) == 0, "the end of subscribing")
        probe.until(lambda: probe.statuses[-1].state == TargetStatus.IDLE, "IDLE")
        assert "inactive" in probe.select(BOX).message
    assert gate.calls == 1, "deactivating keeps the model"

    assert probe.change(Transition.TRANSITION_CLEANUP)
    assert probe.set(model="other", score_found=0.55) == [(True, ""), (True, "")]
    gate.error = ValueError("model 'other' is unknown")
    assert probe.change(Transition.TRANSITION_CONFIGURE)
    probe.until(
        lambda: probe.level_of("model") == (b"\x02", "other failed: model 'other' is unknown"),
        "diagnostics ERROR",
    )
    assert [status.state for status in probe.told_late()] == [TargetStatus.IDLE]
    assert not probe.change(Transition.TRANSITION_ACTIVATE)
    refused = probe.select(BOX).message
    assert "model 'other' is unknown: clean up, correct the parameters" in refused
    assert not passes_by_itself(refused), "who waits for the start waits in vain"
    probe.until(
        lambda: any("refused" in log.msg and refused in log.msg for log in probe.logs),
        "a log of the refusal",
    )

    gate.error = None
    assert probe.change(Transition.TRANSITION_CLEANUP)
    assert probe.set(model="ostrack_tiny") == [(True, "")]
    assert probe.change(Transition.TRANSITION_CONFIGURE)
    assert probe.change(Transition.TRANSITION_ACTIVATE)
    probe.connect()
    probe.start_following()
    probe.follow(1)
    assert probe.change(Transition.TRANSITION_ACTIVE_SHUTDOWN)
    assert "inactive" in probe.select(BOX).message


def test_activate_does_not_wait_forever(make_probe, spin, gate, monkeypatch):
    monkeypatch.setattr(track, "_ACTIVATE_PATIENCE_S", 0.1)
    probe = make_probe("")
    spin(unmanaged(gate))
    assert probe.change(Transition.TRANSITION_CONFIGURE)
    assert not probe.change(Transition.TRANSITION_ACTIVATE)
    probe.until(
        lambda: any("still loading" in log.msg for log in probe.logs), "a log of the reason"
    )
    gate.opened.set()
    probe.until(lambda: probe.statuses[-1].state == TargetStatus.IDLE, "the end of loading")
    assert probe.change(Transition.TRANSITION_ACTIVATE)


def test_autostart_is_active_only_after_the_model_is_warm(make_probe, spin, gate):
    probe = make_probe("")
    spin(lambda: TrackNode(gate))
    states = probe.node.create_client(GetState, "track/get_state")
    probe.until(lambda: gate.calls, "loading")
    assert probe.call(states, GetState.Request()).current_state.label == "inactive"
    gate.opened.set()
    probe.until(
        lambda: probe.call(states, GetState.Request()).current_state.label == "active", "active"
    )


def test_a_model_that_throws_costs_one_frame(make_probe, spin, tiny_tracker):
    class Moody(DelegatingTracker):
        throws = False

        def track(self, image):
            if self.throws:
                raise RuntimeError("out of patience")
            return super().track(image)

    moody = Moody(tiny_tracker)
    probe = make_probe("")
    spin(lambda: TrackNode(lambda parameters: moody))
    probe.connect()
    target_id = probe.start_following()
    probe.follow(1)
    moody.throws = True
    status = probe.show()
    assert probe.target_of(status.header) is None
    probe.until(lambda: any("out of patience" in log.msg for log in probe.logs), "a log")
    moody.throws = False
    assert probe.follow(1).id == target_id


def test_silence_is_told_with_the_publishers(make_probe, spin, tiny_tracker, monkeypatch):
    monkeypatch.setattr(input_watch, "_SILENT_S", 0.3)
    probe = make_probe("")
    spin(lambda: TrackNode(lambda parameters: tiny_tracker))
    probe.connect()
    told = probe.until(
        lambda: [log.msg for log in probe.logs if "no image on /image" in log.msg], "a warning"
    )
    assert "/probe (sensor_msgs/msg/Image, reliable, volatile)" in told[0]
    assert "subscribed best_effort" in told[0]
    probe.show()
    probe.until(lambda: any("again" in log.msg for log in probe.logs), "the all-clear")


def test_clocks_that_disagree_are_told_once(make_probe, spin, tiny_tracker, make_message):
    probe = make_probe("")
    spin(lambda: TrackNode(lambda parameters: tiny_tracker))
    probe.connect()

    def old(header):
        header.stamp.sec -= 3600
        return make_message(probe.scene.image(probe.place), header)

    for _ in range(12):
        probe.show(make=old)
    probe.until(lambda: any("3600." in log.msg for log in probe.logs), "a warning")
    probe.show(make=old)
    told = [log.msg for log in probe.logs if "3600." in log.msg]
    assert len(told) == 1
    assert "use_sim_time" in told[0]
    assert "--clock" in told[0]


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("score_found", 1.5, ["score_found", "1.5", "1.0"]),
        ("score_found", 2, ["score_found", "2", "from 0 to 1"]),
        ("score_lost", 0.9, ["score_lost", "0.9", "score_found"]),
        ("lost_after", float("nan"), ["lost_after", "nan"]),
        ("debug_rate", -1, ["debug_rate", "-1", "from 0 to 1000"]),
        ("debug_scale", "big", ["debug_scale", "'big'", "a number from 0.05 to 4"]),
        ("debug_score_encoding", "jpeg", ["debug_score_encoding", "'jpeg'", "'32FC1'"]),
        ("buffer_seconds", True, ["buffer_seconds", "True", "a number"]),
        ("model", "other", ["model", "'other'", "clean the node up"]),
        ("device", "cpu", ["device", "'cpu'", "clean the node up"]),
        ("model_options", "seed=1", ["model_options", "'seed=1'", "clean the node up"]),
        ("autostart", False, ["autostart", "False", "when the node is started"]),
    ],
)
def test_parameters_are_refused_with_value_and_remedy(probe, name, value, words):
    ((accepted, reason),) = probe.set(**{name: value})
    assert not accepted
    for word in words:
        assert word in reason


def test_integers_are_numbers_too(probe):
    assert probe.set(debug_rate=5, buffer_seconds=4, lost_after=2) == [(True, "")] * 3
    assert probe.set(debug_rate=10.0, buffer_seconds=5.0, lost_after=1.0) == [(True, "")] * 3


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("backend:=onnx", ["backend", "'onnx'", "'auto', 'torch', 'onnxruntime'"]),
        ("precision:=fp8", ["precision", "'fp8'", "'auto', 'fp32', 'fp16'"]),
        ("device:=gpu", ["device", "'gpu'", "'cuda:N'"]),
        ("image_transport:=compressed", ["image_transport", "'compressed'", "'raw'"]),
        ("score_found:=high", ["score_found", "'high'", "from 0 to 1"]),
        ("score_lost:=0.8", ["score_lost", "0.8", "score_found"]),
        ("model:=5", ["model", "5", "a string"]),
        ("model_options:=seed", ["model_options", "'seed'", "NAME=VALUE"]),
    ],
)
def test_a_bad_parameter_at_start_ends_the_node_with_a_reason(run_program, argument, words):
    process = run_program("track", "--ros-args", "-p", argument)
    assert process.wait() == 1
    for word in words:
        assert word in process.output
    assert "Traceback" not in process.output


def test_options_that_the_model_lacks_are_told(make_probe, run_program):
    arguments = ["-p", "model:=trdimp_tiny", "-p", "model_options:=seed=1 threshold=0.5"]
    run_program("track", "--ros-args", "-r", "__ns:=/options", *arguments)
    probe = make_probe("/options")
    words = "trdimp_tiny has no option 'threshold'; it takes seed (an integer; without it 0)"
    probe.until(lambda: any(words in log.msg for log in probe.logs), "a log")
    assert words in probe.select(BOX).message


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_cleanly_while_it_works(make_probe, run_program, how):
    process = run_program("track", "--ros-args", "-r", f"__ns:=/{how.name}", "-p", "lost_after:=1")
    probe = make_probe(f"/{how.name}")
    probe.connect()
    probe.start_following()
    probe.show()
    assert process.stop(how) == 0
    assert "Traceback" not in process.output
    assert "rror" not in process.output


def test_a_tracker_that_dies_can_be_started_again(make_probe, run_program):
    probe = make_probe("/again")
    first = run_program("track", "--ros-args", "-r", "__ns:=/again")
    probe.connect()
    probe.start_following()
    assert first.stop(signal.SIGKILL) == -signal.SIGKILL
    probe.statuses.clear()
    run_program("track", "--ros-args", "-r", "__ns:=/again")
    probe.until(
        lambda: probe.statuses and probe.statuses[-1].state == TargetStatus.IDLE,
        "the end of loading",
        timeout_s=60.0,
    )
    assert probe.show().state == TargetStatus.IDLE
    target_id = probe.start_following()
    assert probe.follow(2).id == target_id


def test_two_trackers_in_two_namespaces(make_probe, run_program):
    left, right = make_probe("/left"), make_probe("/right")
    for name in ("left", "right"):
        run_program("track", "--ros-args", "-r", f"__ns:=/{name}")
    left.connect()
    right.connect()
    right.place = 50
    left.start_following("one")
    for _ in range(3):
        assert right.show().state == TargetStatus.IDLE
        left.show()
    right.start_following("two")
    for probe, label in ((left, "one"), (right, "two")):
        target = probe.follow(3)
        assert target.results[0].hypothesis.class_id == label
        assert probe.follows(target)
    assert right.clear().success
    assert right.show().state == TargetStatus.IDLE
    assert left.follow(1).results[0].hypothesis.class_id == "one"


def test_parameters_tell_what_they_are():
    from tracker_ros.nodes.parameters import TRACK_PARAMETERS

    for spec in TRACK_PARAMETERS:
        descriptor = spec.descriptor()
        assert spec.description in descriptor.description
        assert spec.change.value in descriptor.description
        assert spec.checked(spec.default) == spec.default

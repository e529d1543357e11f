# SPDX-License-Identifier: Apache-2.0
"""Every model works in the node and on the command line, with nothing but its name changed.

Models without weights of their own get random ones: they find nothing, but all else must hold. One
node is configured for one model after the other, so that each also takes another's place.
"""

from __future__ import annotations

import json
import math

import cv2
import numpy as np
import pytest
from graph_probe import Probe, image_message
from lifecycle_msgs.msg import Transition
from sensor_msgs.msg import Image

from tracker_interfaces.msg import TargetStatus
from tracker_ros import list_models, model_card
from tracker_ros.cli.main import main
from tracker_ros.geometry import visible_extent
from tracker_ros.nodes.messages import box_of

LONG_S = 300.0
OPTIONS = {"grm": "threshold=0.5", "mast": "working_size=160", "trdimp": "seed=3"}


@pytest.fixture(scope="module")
def weights_of(tmp_path_factory, random_weights):
    """The weights file to give for a model; None where it has its own.

    Only the newest is kept: the largest takes two thirds of a gigabyte, and models of one shape
    follow each other.
    """
    from tracker_ros.checkpoints import write_weights

    made = {}

    def give(name):
        if model_card(name).weights:
            return None
        state = random_weights(name)
        shapes = tuple((key, tuple(value.shape)) for key, value in state.items())
        if shapes not in made:
            forget()
            made[shapes] = tmp_path_factory.mktemp("untrained") / f"{name}.safetensors"
            write_weights(state, made[shapes], half=True)
        return made[shapes]

    def forget():
        while made:
            made.popitem()[1].unlink()

    yield give
    forget()


@pytest.fixture(scope="module")
def probe(tmp_path_factory, node_process):
    """The probe beside a tracker that waits to be configured."""
    log = tmp_path_factory.mktemp("models") / "track.log"
    arguments = ["-r", "__ns:=/models", "-p", "autostart:=false", "-p", "lost_after:=3600.0"]
    arguments += ["-p", "debug_score_encoding:=32FC1", "-p", "debug_rate:=0.0"]
    arguments += ["-p", "build_engine:=false"]  # not every model need be exported
    process = node_process("track", ["--ros-args", *arguments], log)
    found = Probe("/models")
    yield found
    found.close()
    assert process.stop() == 0
    assert "Traceback" not in process.output


@pytest.fixture(autouse=True)
def unconfigured(probe):
    """Leave the node as it was, whatever became of the test."""
    yield
    probe.change(Transition.TRANSITION_DEACTIVATE)
    probe.change(Transition.TRANSITION_CLEANUP)


def configure(probe, name, weights):
    """Make the node active with another model."""
    options = OPTIONS.get(model_card(name).family, "")
    for given in probe.set(model=name, weights=str(weights or ""), model_options=options):
        assert given == (True, "")
    assert probe.change(Transition.TRANSITION_CONFIGURE)
    probe.until(
        lambda: f"model {name} ready" in "".join(log.msg for log in probe.logs[-3:]),
        f"the end of loading {name}",
        timeout_s=LONG_S,
    )
    assert probe.change(Transition.TRANSITION_ACTIVATE)
    probe.connect()


def shown(probe):
    """The status of the scene's next frame; slow models are waited for."""
    probe.place += 1
    for _ in range(3):
        header = probe.header()
        probe.publish(image_message(probe.scene.image(probe.place), header))
        status = probe.until(lambda h=header: probe.status_of(h), "", LONG_S / 10, fail=False)
        if status:
            return status
    return pytest.fail("no status for three images")


def follow_in_the_node(probe, embedded):
    """Select, follow, and see what is published; returns the last target."""
    scores: list[Image] = []
    masks: list[Image] = []
    listeners = [
        probe.listen(Image, "debug/score", scores),
        probe.listen(Image, "target_mask", masks),
    ]
    header = shown(probe).header
    response = probe.select(probe.scene.box(probe.place), header)
    assert response.success, response.message
    for _ in range(8 if embedded else 2):
        status = shown(probe)
        assert status.target_id == response.target_id
        assert status.state in (TargetStatus.TRACKING, TargetStatus.UNCERTAIN)
    target = probe.until(lambda: probe.target_of(status.header), "a box for the last frame")
    assert target.id == response.target_id
    box = box_of(target.bbox)
    assert all(map(math.isfinite, box))
    assert min(visible_extent(box, 240, 320)) > 0
    probe.until(lambda: scores and scores[-1].header == status.header, "the last frame's score")
    values = np.frombuffer(scores[-1].data, np.float32).reshape(scores[-1].height, -1)
    assert 0.0 <= values.min() <= values.max() <= 1.0
    if target.results[0].hypothesis.class_id.startswith("mast"):
        probe.until(lambda: masks and masks[-1].header == status.header, "the last frame's mask")
        assert len(masks[-1].data) == 240 * 320
    else:
        assert masks == []
    for listener in listeners:
        probe.node.destroy_subscription(listener)
    return target


def lose_and_find_again(probe, target_id):
    """Take the target out of sight and bring it back."""
    probe.until(
        lambda: probe.show(visible=False).state != TargetStatus.TRACKING, "doubt without a target"
    )
    probe.until(lambda: probe.show().state == TargetStatus.TRACKING, "the target again")
    assert probe.statuses[-1].target_id == target_id


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if model_card(name).weights else [pytest.mark.slow])
        for name in list_models()
    ],
)
def test_model_in_the_node_and_on_the_command_line(name, probe, weights_of, tmp_path, capsys):
    weights, family = weights_of(name), model_card(name).family
    configure(probe, name, weights)
    target = follow_in_the_node(probe, embedded=weights is None)
    assert target.results[0].hypothesis.class_id == name
    if weights is None:
        assert probe.follows(target)
        lose_and_find_again(probe, target.id)
    assert probe.change(Transition.TRANSITION_DEACTIVATE)
    assert probe.change(Transition.TRANSITION_CLEANUP)

    for place in range(3):
        path = tmp_path / f"{place}.png"
        cv2.imwrite(str(path), np.ascontiguousarray(probe.scene.image(place)[..., ::-1]))
    box = [str(value) for value in probe.scene.box(0)]
    given = ["--weights", str(weights)] if weights else []
    given += ["--option", OPTIONS[family]] if family in OPTIONS else []
    assert main(["track", str(tmp_path), "--box", *box, "--model", name, "--json", *given]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["model"], found["frames"]) == (name, 3)
    for entry in found["results"]:
        assert all(map(math.isfinite, entry["box"]))
        assert min(visible_extent(entry["box"], 240, 320)) > 0
    if weights is None:
        assert found["frames_tracked"] == 3

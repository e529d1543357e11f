# SPDX-License-Identifier: Apache-2.0
"""Models in the node and on the command line, with nothing but their names changed.

One node is configured for one model after the other, so that each also replaces another. Every
model is followed by ``test/models``; here, all that have weights in the package take part, and one
of each family's code whose weights are given as a file. Those are random: they find nothing, but
everything else must hold.
"""

from __future__ import annotations

import json
import math

import cv2
import numpy as np
import pytest
from graph_probe import Scene, image_message
from lifecycle_msgs.msg import Transition
from sensor_msgs.msg import Image

from tracker_interfaces.msg import TargetStatus
from tracker_ros import list_models, model_card
from tracker_ros.cli.main import main
from tracker_ros.geometry import visible_extent
from tracker_ros.nodes.messages import box_of

LONG_S = 300.0
OPTIONS = {"grm": "threshold=0.5", "mast": "working_size=160", "trdimp": "seed=3"}
EMBEDDED = [name for name in list_models() if model_card(name).weights]
OFFICIAL = ["ostrack_vitb_256", "trdimp_resnet50", "mast_resnet18"]


@pytest.fixture
def weights_of(tmp_path, random_weights):
    """Returns the weights file to give for a model; None if it has its own."""

    def give(name):
        if model_card(name).weights:
            return None
        from tracker_ros.checkpoints import write_weights

        path = tmp_path / f"{name}.safetensors"
        write_weights(random_weights(name), path, half=True)
        return path

    return give


@pytest.fixture
def probe(waiting_probe):
    """The probe beside a tracker that waits to be configured; it is left as it was."""
    waiting_probe.scene, waiting_probe.place = Scene(), 0
    for heard in (waiting_probe.logs, waiting_probe.statuses, waiting_probe.targets):
        heard.clear()
    settings = {"debug_score_encoding": "32FC1", "debug_rate": 0.0}
    assert waiting_probe.set(**settings) == [(True, "")] * 2
    yield waiting_probe
    waiting_probe.change(Transition.TRANSITION_DEACTIVATE)
    waiting_probe.change(Transition.TRANSITION_CLEANUP)
    plain = {"weights": "", "model_options": "", "backend": "torch", "engine_cache_dir": ""}
    assert waiting_probe.set(build_engine=False, precision="auto", **plain) == [(True, "")] * 6


def configure(probe, **parameters):
    """Configure with these parameters and wait until loading has finished or failed."""
    assert all(accepted for accepted, _ in probe.set(**parameters))
    assert probe.change(Transition.TRANSITION_CONFIGURE)
    name = f"model {parameters.get('model', 'ostrack_tiny')}"
    ends = (f"{name} ready", f"{name} cannot be loaded")
    return probe.until(
        lambda: next((log.msg for log in probe.logs if log.msg.startswith(ends)), None),
        f"the end of loading {name}",
        timeout_s=LONG_S,
    )


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
    for _ in range(8 if embedded else 1):
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


def follow_on_the_command_line(name, weights, options, scene, folder, capsys):
    """Follow three pictures; every box must be finite and visible."""
    for place in range(3):
        picture = np.ascontiguousarray(scene.image(place)[..., ::-1])
        cv2.imwrite(str(folder / f"{place}.png"), picture)
    given = ["--box", *map(str, scene.box(0)), "--model", name, "--backend", "torch", "--json"]
    given += ["--weights", str(weights)] if weights else []
    given += ["--option", options] if options else []
    assert main(["track", str(folder), *given]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["model"], found["frames"]) == (name, 3)
    for entry in found["results"]:
        assert all(map(math.isfinite, entry["box"]))
        assert min(visible_extent(entry["box"], 240, 320)) > 0
    if weights is None:
        assert found["frames_tracked"] == 3


@pytest.mark.parametrize(
    "name", [*EMBEDDED, *(pytest.param(name, marks=pytest.mark.slow) for name in OFFICIAL)]
)
def test_model_in_the_node_and_on_the_command_line(name, probe, weights_of, tmp_path, capsys):
    weights, options = weights_of(name), OPTIONS.get(model_card(name).family, "")
    end = configure(probe, model=name, weights=str(weights or ""), model_options=options)
    assert "ready" in end
    assert probe.change(Transition.TRANSITION_ACTIVATE)
    probe.connect()
    target = follow_in_the_node(probe, embedded=weights is None)
    assert target.results[0].hypothesis.class_id == name
    if weights is None:
        assert probe.follows(target)
        lose_and_find_again(probe, target.id)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    follow_on_the_command_line(name, weights, options, probe.scene, pictures, capsys)


def test_options_that_the_model_lacks_are_named(probe):
    end = configure(probe, model="trdimp_tiny", model_options="seed=1 threshold=0.5")
    for word in ("'threshold'", "seed"):
        assert word in end
    refused = probe.select((50.0, 50.0, 40.0, 40.0))
    assert refused.code == refused.MODEL_FAILED
    assert "'threshold'" in refused.message


def test_an_engine_that_may_not_be_built_is_refused(probe, tmp_path):
    given = {"backend": "onnxruntime", "precision": "fp16", "engine_cache_dir": str(tmp_path)}
    end = configure(probe, model="ostrack_tiny", build_engine=False, **given)
    assert "'template'" in end
    assert not list(tmp_path.rglob("*.onnx"))
    assert not probe.change(Transition.TRANSITION_ACTIVATE)


def test_the_choice_of_a_back_end_is_logged(probe, waiting_process):
    end = configure(probe, model="ostrack_tiny", backend="auto")
    assert "backend onnxruntime" in end
    probe.until(lambda: "ostrack_tiny runs on onnxruntime" in waiting_process.output, "the choice")

# SPDX-License-Identifier: Apache-2.0
"""One table of parameters: the nodes, the params file, the launch file and the documents agree."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from launch import LaunchContext
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch_ros.parameter_descriptions import ParameterValue

from tracker_ros.nodes.parameters import (
    TRACK_PARAMETERS,
    VIDEO_PARAMETERS,
    ParameterError,
    check_scores,
)

ROOT = Path(__file__).resolve().parents[2]
TRACK = {spec.name: spec for spec in TRACK_PARAMETERS}
DEFAULTS = {spec.name: spec.default for spec in TRACK_PARAMETERS}
LAUNCH_WORDS = (
    "namespace use_sim_time params_file autostart use_respawn log_level image_topic "
    "camera_info_topic depth_topic rviz console video box"
)


@pytest.fixture
def launch_file(monkeypatch):
    """The launch file as a module; its nodes are recorded as their arguments, not made."""
    spec = importlib.util.spec_from_file_location("track_launch", ROOT / "launch/track.launch.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "Node", lambda **given: SimpleNamespace(**given))
    return module


def started(launch_file, **given):
    """The nodes that the launch file starts for these arguments."""
    context = LaunchContext()
    context.launch_configurations.update(given)
    nodes = []
    for entity in launch_file.generate_launch_description().entities:
        if isinstance(entity, DeclareLaunchArgument):
            entity.execute(context)
        elif isinstance(entity, OpaqueFunction):
            nodes.extend(entity.execute(context) or [])
    return nodes


def overrides_of(node):
    """The parameters that a node is given beside the params file."""
    _, overrides = node.parameters
    return {
        name: value.value if isinstance(value, ParameterValue) else value
        for name, value in overrides.items()
    }


def test_the_params_file_holds_the_defaults():
    content = yaml.safe_load((ROOT / "config/track.yaml").read_text())
    assert content == {"/**": {"ros__parameters": DEFAULTS}}
    for name, value in content["/**"]["ros__parameters"].items():
        assert type(value) is type(DEFAULTS[name]), name


@pytest.mark.parametrize("spec", TRACK_PARAMETERS + VIDEO_PARAMETERS, ids=lambda spec: spec.name)
def test_a_parameter_describes_itself(spec):
    descriptor = spec.descriptor()
    assert spec.description in descriptor.description
    assert spec.change.value in descriptor.description
    assert spec.checked(spec.default) == spec.parse(spec.default_text) == spec.default
    ranges = [*descriptor.floating_point_range, *descriptor.integer_range]
    assert [(r.from_value, r.to_value) for r in ranges] == (
        [] if spec.limits is None else [spec.limits]
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model", "nonsense"),
        ("model", ""),
        ("model", 5),
        ("backend", "onnx"),
        ("precision", "fp8"),
        ("device", "gpu"),
        ("score_found", "high"),
        ("score_found", 1.5),
        ("score_found", float("nan")),
        ("lost_after", -1.0),
        ("lost_after", True),
        ("buffer_seconds", None),
        ("autostart", 1),
        ("model_options", "seed"),
        ("debug_score_encoding", "jpeg"),
    ],
)
def test_wrong_values_are_refused(name, value):
    with pytest.raises(ParameterError):
        TRACK[name].checked(value)


def test_a_wrong_model_names_the_nearest_ones():
    with pytest.raises(ParameterError, match="ostrak_tiny.*did you mean ostrack_tiny"):
        TRACK["model"].checked("ostrak_tiny")


def test_integers_are_numbers_too():
    assert TRACK["lost_after"].checked(2) == 2.0
    assert type(TRACK["lost_after"].checked(2)) is float


def test_contradicting_thresholds_are_refused():
    check_scores({"score_found": 0.5, "score_lost": 0.5})
    with pytest.raises(ParameterError):
        check_scores({"score_found": 0.5, "score_lost": 0.6})


def test_the_launch_file_declares_each_parameter_with_its_default(launch_file):
    declared = {
        entity.name: entity
        for entity in launch_file.generate_launch_description().entities
        if isinstance(entity, DeclareLaunchArgument)
    }
    assert set(declared) == {*TRACK, *LAUNCH_WORDS.split()}
    context = LaunchContext()
    for name, spec in TRACK.items():
        text = "".join(part.perform(context) for part in declared[name].default_value)
        assert spec.parse(text) == spec.default


def test_arguments_that_are_not_given_leave_the_params_file_alone(launch_file):
    (track,) = started(launch_file)
    assert track.parameters[0] == str(launch_file.CONFIG / "track.yaml")
    assert overrides_of(track) == {}


def test_arguments_that_are_given_override_the_params_file(launch_file):
    given = {"model": "mast_tiny", "autostart": "false", "lost_after": "2", "use_sim_time": "1"}
    (track,) = started(launch_file, **given)
    overrides = overrides_of(track)
    assert overrides == {
        "model": "mast_tiny", "autostart": False, "lost_after": 2.0, "use_sim_time": True
    }  # fmt: skip
    kinds = {name: type(value) for name, value in overrides.items()}
    assert kinds == {"model": str, "autostart": bool, "lost_after": float, "use_sim_time": bool}


def test_texts_that_look_like_numbers_stay_texts(launch_file):
    (track,) = started(launch_file, weights="12")
    value = track.parameters[1]["weights"]
    assert (value.value, value.value_type) == ("12", str)


def test_video_and_box_add_their_programs(launch_file):
    nodes = started(launch_file, video="a.mp4", box="1 2 3 4", namespace="cam", image_topic="rgb")
    assert [node.executable for node in nodes] == ["track", "video", "select_target"]
    for node in nodes:
        assert node.namespace == "cam"
        assert dict(node.remappings)["image"] == "rgb"
    assert nodes[1].parameters[1]["source"].value == "a.mp4"
    assert nodes[1].parameters[2] == {"wait_for_target": True}
    assert nodes[1].parameters[1]["transport"] == "raw"
    assert nodes[2].arguments == ["--box", "1", "2", "3", "4", "--transport", "raw"]


def test_several_cameras_are_named_in_every_program(launch_file):
    given = {"cameras": "front left", "namespace": "bot", "video": "a.mp4", "console": "true"}
    track, *videos, console = started(launch_file, image_topic="rgb", **given)
    assert overrides_of(track) == {"cameras": "front left"}
    assert track.namespace == console.namespace == "bot"
    for node in (track, console):
        topics = dict(node.remappings)
        assert topics["front/image"] == "front/rgb"
        assert topics["left/image"] == "left/rgb"
    assert [(node.executable, node.namespace) for node in videos] == [
        ("video", "bot/front"), ("video", "bot/left"),
    ]  # fmt: skip
    assert [dict(node.remappings)["image"] for node in videos] == ["rgb", "rgb"]
    assert console.parameters[1]["cameras"].value == "front left"


def test_each_of_several_cameras_may_have_its_topic(launch_file):
    (track,) = started(launch_file, cameras="a b", image_topic="/one/rgb /two/rgb")
    topics = dict(track.remappings)
    assert (topics["a/image"], topics["b/image"]) == ("/one/rgb", "/two/rgb")
    for wrong in ("/one/rgb", "/one /two /three", "one two"):
        with pytest.raises(ValueError, match=wrong):
            started(launch_file, cameras="a b", image_topic=wrong)


def test_rviz_is_started_when_asked_for(launch_file):
    assert [node.executable for node in started(launch_file, rviz="true")] == ["track", "rviz2"]


@pytest.mark.parametrize(
    "given",
    [
        {"box": "1 2 3"},
        {"box": "a b c d"},
        {"box": "1 2 3 nan"},
        {"params_file": "missing.yaml"},
        {"use_respawn": "maybe"},
        {"model": "nonsense"},
        {"lost_after": "soon"},
    ],
)
def test_bad_launch_arguments_are_named(launch_file, given):
    (value,) = given.values()
    with pytest.raises(ValueError, match=value):
        started(launch_file, **given)


def test_the_launch_file_runs_no_code_of_others():
    text = (ROOT / "launch/track.launch.py").read_text()
    for word in ("eval(", "exec(", "subprocess", "urllib", "PythonExpression", "Command("):
        assert word not in text

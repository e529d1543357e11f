# SPDX-License-Identifier: Apache-2.0
"""One source of defaults: the node, ``config/track.yaml`` and ``launch/track.launch.py`` agree."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import yaml
from launch import LaunchContext
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import TextSubstitution
from launch_ros.actions import Node

from tracker_ros.nodes.parameters import TRACK_PARAMETERS

ROOT = Path(__file__).resolve().parents[2]
NODE = {spec.name: spec.default for spec in TRACK_PARAMETERS}
PROMISED = (
    "namespace use_sim_time params_file autostart use_respawn log_level image_topic "
    "camera_info_topic depth_topic model weights device backend precision engine_cache_dir "
    "build_engine model_options image_transport debug_score_overlay rviz video box"
)


@pytest.fixture(scope="module")
def launch_file():
    spec = importlib.util.spec_from_file_location("track_launch", ROOT / "launch/track.launch.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def started(launch_file, **given):
    """The nodes that the launch file would start, and its values, for these arguments."""
    context = LaunchContext()
    context.launch_configurations.update(given)
    nodes = []
    for entity in launch_file.generate_launch_description().entities:
        result = entity.execute(context)
        if isinstance(entity, OpaqueFunction):
            nodes.extend(result or [])
    assert all(isinstance(node, Node) for node in nodes)
    return nodes, context


def test_the_params_file_holds_the_nodes_defaults():
    text = (ROOT / "config/track.yaml").read_text()
    assert yaml.safe_load(text) == {"/**": {"ros__parameters": NODE}}
    for name, value in yaml.safe_load(text)["/**"]["ros__parameters"].items():
        assert type(value) is type(NODE[name]), name


def test_the_launch_files_defaults_are_the_nodes(launch_file):
    defaults = {name: default for name, default, _ in launch_file.ARGUMENTS}
    shared = set(defaults) & set(NODE)
    strings = {"model", "weights", "device", "backend", "precision", "engine_cache_dir"}
    strings |= {"model_options", "image_transport", "debug_score_overlay"}
    assert shared == {*strings, "autostart", "build_engine"}
    for name in shared:
        value = NODE[name]
        assert defaults[name] == (str(value).lower() if isinstance(value, bool) else value)


def test_the_launch_file_has_the_promised_arguments(launch_file):
    declared = [
        entity.name
        for entity in launch_file.generate_launch_description().entities
        if isinstance(entity, DeclareLaunchArgument)
    ]
    assert sorted(declared) == sorted(PROMISED.split())


def test_arguments_that_are_not_given_leave_the_params_file_alone(launch_file):
    (track,), context = started(launch_file)
    assert overrides_of(track, context) == {}
    given = {"model": "12", "autostart": "false", "debug_score_overlay": "token_mask"}
    (track,), context = started(launch_file, **given)
    assert overrides_of(track, context) == {**given, "autostart": False}


def overrides_of(track, context):
    """Parameters given beside the params file."""
    track._perform_substitutions(context)
    found = {}
    for path, _ in track._Node__expanded_parameter_arguments or []:
        content = yaml.safe_load(Path(path).read_text())
        if Path(path).name.startswith("launch_params_"):
            for block in content.values():
                found.update(block["ros__parameters"])
    return found


def test_video_and_box_add_their_programs(launch_file):
    nodes, context = started(launch_file, video="a.mp4", box="1 2 3 4", namespace="cam")
    assert [node.node_executable for node in nodes] == ["track", "video", "select_target"]
    for node in nodes:
        node._perform_substitutions(context)
        assert node.expanded_node_namespace == "/cam"
    command = [
        "".join(part.perform(context) for part in piece)
        for piece in nodes[2].cmd
        if all(isinstance(part, TextSubstitution) for part in piece)
    ]
    start = command.index("--box")
    assert command[start + 1 : start + 5] == ["1", "2", "3", "4"]


def test_rviz_is_started_when_asked_for(launch_file):
    nodes, _ = started(launch_file, rviz="true")
    assert [node.node_executable for node in nodes] == ["track", "rviz2"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"box": "1 2 3"}, "wanted four numbers"),
        ({"box": "a b c d"}, "box is 'a b c d', wanted four numbers"),
        ({"box": "1 2 3 nan"}, "wanted four numbers"),
        ({"params_file": "missing.yaml"}, "params_file is 'missing.yaml', which is no file"),
        ({"use_respawn": "maybe"}, "use_respawn is 'maybe', wanted true or false"),
    ],
)
def test_bad_arguments_are_named(launch_file, given, words):
    with pytest.raises(ValueError, match=words):
        started(launch_file, **given)


def test_the_launch_file_runs_no_code_of_others():
    text = (ROOT / "launch/track.launch.py").read_text()
    for word in ("eval(", "exec(", "subprocess", "urllib", "PythonExpression", "Command("):
        assert word not in text

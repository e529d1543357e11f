# SPDX-License-Identifier: Apache-2.0
"""`tracker-ros bag` as a user runs it."""

from __future__ import annotations

import json
import os
import signal

import pytest
from recordings import START_NS, STEP_NS, box, record

from tracker_ros.bags.requests import DETECTION
from tracker_ros.bags.results import BagResults
from tracker_ros.cli.main import main
from tracker_ros.io.bag_reader import BagTopic, open_bag
from tracker_ros.io.bag_writer import BagWriter

FAST = ["--backend", "torch"]
BOX = ["--box", *(str(value) for value in box(0))]


def test_the_bag_has_the_nodes_topics_and_the_input(recording, tmp_path, capsys):
    out, results = tmp_path / "out" / "tracked.mcap", tmp_path / "r.json"
    command = ["bag", str(recording), *BOX, *FAST, "--image", "/camera/image_raw"]
    command += ["--depth", "/depth", "--with-input", "--namespace", "again", "--label", "disc"]
    assert main([*command, "--out", str(out), "--results", str(results)]) == 0
    made, given = open_bag(out), open_bag(recording)
    counts = {name: topic.count for name, topic in made.topics.items()}
    for name, topic in given.topics.items():
        assert counts[name] == topic.count
        assert list(made.messages([name])) == list(given.messages([name]))
    assert counts["/again/target_status"] >= 16
    assert counts["/again/target_annotations"] == 15
    assert counts["/again/target_pose"] == counts["/again/target"]
    times = [time_ns for _, time_ns, _ in made.messages(list(made.topics))]
    assert times == sorted(times)
    _, time_ns, data = next(made.messages(["/again/target_pose"]))
    pose = made.deserialize("/again/target_pose", data)
    assert time_ns == START_NS + STEP_NS + 5_000_000
    assert pose.pose.pose.position.z == pytest.approx(3.0, abs=0.05)
    data = json.loads(results.read_text())
    assert data["complete"] is True
    assert len(data["results"]) == data["frames"] == 16
    assert data["results"][1]["targets"][0]["state"] == "TRACKING"
    assert str(out) in capsys.readouterr().out


def test_topics_that_are_there_already_are_not_mixed_up(tmp_path, capsys):
    given = record(tmp_path / "run.mcap", 3)
    writer = BagWriter(tmp_path / "live.mcap")
    for topic in [*open_bag(given).topics.values(), BagTopic("/target", DETECTION)]:
        assert writer.copy_topic(topic)
    for topic, time_ns, data in open_bag(given).messages(["/camera/image_raw"]):
        writer.copy(topic, time_ns, data)
    writer.finish()
    out = tmp_path / "out.mcap"
    command = ["bag", str(tmp_path / "live.mcap"), *BOX, *FAST, "--out", str(out), "--with-input"]
    assert main(command) == 2
    assert "--namespace" in capsys.readouterr().err
    assert {entry.name for entry in tmp_path.iterdir()} == {"run.mcap", "live.mcap"}
    assert main([*command, "--namespace", "again"]) == 0
    assert {"/target", "/again/target"} <= set(open_bag(out).topics)


@pytest.mark.parametrize(
    ("topics", "options", "told"),
    [
        (("/depth",), [], "/depth"),  # depth is no picture
        (("/camera/image_raw", "/depth"), [], "2 image topics"),
        (("/camera/image_raw",), ["--image", "/camera/imageraw"], "/camera/image_raw"),
        (("/camera/image_raw",), ["--rate", "-1"], "--rate"),
        (("/camera/image_raw",), ["--with-input"], "--out"),
        (("/camera/camera_info",), [], "no image topics"),
    ],
)
def test_what_cannot_be_followed_is_one_clear_error(tmp_path, capsys, topics, options, told):
    path = record(tmp_path / "run.mcap", 2, topics=topics)
    if told == "/depth":
        assert main(["bag", str(path), *BOX, *FAST, "--out", str(tmp_path / "o.mcap")]) == 2
    else:
        assert main(["bag", str(path), *BOX, *FAST, *options]) == 2
    assert told in capsys.readouterr().err
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.mcap"]


def test_without_a_box_the_bag_must_hold_requests(tmp_path, capsys):
    path = record(tmp_path / "run.mcap", 2)
    assert main(["bag", str(path), *FAST]) == 2
    assert "--box" in capsys.readouterr().err
    empty = record(tmp_path / "empty.mcap", 0)
    assert main(["bag", str(empty), *BOX, *FAST]) == 2


def test_an_interrupted_run_leaves_a_whole_bag_up_to_there(recording, tmp_path, monkeypatch):
    real = BagResults.add

    def add(results, given):
        real(results, given)
        if len(results.frames) == 6:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(BagResults, "add", add)
    out, results = tmp_path / "out.mcap", tmp_path / "r.json"
    command = ["bag", str(recording), *BOX, *FAST, "--image", "/camera/image_raw"]
    assert main([*command, "--out", str(out), "--results", str(results)]) == 130
    data = json.loads(results.read_text())
    assert (data["complete"], data["ended_by"]) == (False, "SIGINT")
    made = open_bag(out)
    assert len(list(made.messages(["/target"]))) == data["frames"] - 1 < 15
    assert {entry.name for entry in tmp_path.iterdir()} == {"out.mcap", "r.json"}

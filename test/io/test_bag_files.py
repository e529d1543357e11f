# SPDX-License-Identifier: Apache-2.0
"""Bags that are written whole or not at all, and read however they are damaged."""

from __future__ import annotations

import contextlib
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
from rosbags.rosbag2 import Reader, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from tracker_ros.io.bag_reader import BagTopic, find_topic, open_bag
from tracker_ros.io.bag_writer import BagWriter
from tracker_ros.io.message_types import common_types, make_message, message_type

STRING = "std_msgs/msg/String"
STATUS = "tracker_interfaces/msg/TargetStatus"
PACKAGE = Path(__file__).resolve().parents[2] / "tracker_interfaces"


def write(path: Path, count: int = 3, text: str = "x", **options) -> Path:
    writer = BagWriter(path, **options)
    writer.add_topic("/chatter", STRING)
    writer.add_topic("/target_status", STATUS)
    for index in range(count):
        writer.write("/chatter", 10**18 + index, {"data": text})
        writer.write("/target_status", 10**18 + index, {"state": 2, "score": 0.5})
    writer.finish()
    return path


@pytest.mark.parametrize("name", ["a.mcap", "a.db3", "a"])
def test_what_is_written_is_read_by_rosbags_and_by_us(tmp_path, name):
    path = write(tmp_path / name)
    with Reader(path) as reader:
        assert {link.topic: link.msgtype for link in reader.connections} == {
            "/chatter": STRING,
            "/target_status": STATUS,
        }
        assert all("uint8 TRACKING=2" in link.msgdef.data for link in reader.connections[1:])
    ours = open_bag(path)
    found = [(topic, time_ns) for topic, time_ns, _ in ours.messages(["/target_status"])]
    assert found == [("/target_status", 10**18 + index) for index in range(3)]
    data = next(data for _, _, data in ours.messages(["/target_status"]))
    assert ours.deserialize("/target_status", data).score == pytest.approx(0.5)
    assert {entry.name for entry in tmp_path.iterdir()} == {name}
    if name == "a":
        assert {entry.name for entry in path.iterdir()} == {"a.mcap", "metadata.yaml"}


def test_compressed_bags_are_smaller_and_read_alike(tmp_path):
    plain = write(tmp_path / "plain.mcap", 50, "x" * 500)
    packed = write(tmp_path / "packed.mcap", 50, "x" * 500, compress=True)
    assert packed.stat().st_size < plain.stat().st_size / 3
    assert list(open_bag(packed).messages(["/chatter"])) == list(
        open_bag(plain).messages(["/chatter"])
    )


def test_a_split_bag_is_one_bag(tmp_path):
    """Two files and one metadata.yaml, as ros2 bag record --max-bag-size makes them."""
    first, second = write(tmp_path / "one"), tmp_path / "two"
    writer = BagWriter(second)
    writer.add_topic("/chatter", STRING)
    writer.write("/chatter", 10**18 + 10, {"data": "y"})
    writer.finish()
    shutil.copy(second / "two.mcap", first / "two.mcap")
    text = (first / "metadata.yaml").read_text()
    line = next(row for row in text.splitlines() if row.strip() == "- one.mcap")
    (first / "metadata.yaml").write_text(
        text.replace(line, f"{line}\n{line.replace('one.mcap', 'two.mcap')}", 1)
    )
    assert len(list(open_bag(first).messages(["/chatter"]))) == 4


def test_without_metadata_the_files_are_read(tmp_path):
    for name, storage in (("m", StoragePlugin.MCAP), ("s", StoragePlugin.SQLITE3)):
        with Writer(tmp_path / name, version=9, storage_plugin=storage) as writer:
            link = writer.add_connection("/chatter", STRING, typestore=common_types())
            text = make_message(common_types(), STRING, {"data": "x"})
            writer.write(link, 1, common_types().serialize_cdr(text, STRING))
        (tmp_path / name / "metadata.yaml").unlink()
        assert len(list(open_bag(tmp_path / name).messages(["/chatter"]))) == 1


def test_a_cut_bag_gives_what_it_holds_and_says_so(tmp_path):
    path = tmp_path / "run.mcap"
    writer = BagWriter(path)
    writer.add_topic("/chatter", STRING)
    for index in range(40):
        writer.write("/chatter", index + 1, {"data": "x" * 100_000})
    writer.finish()
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    reader = open_bag(path)
    assert 0 < len(list(reader.messages(["/chatter"]))) < 40
    assert reader.refused


@pytest.mark.parametrize("name", ["a.mcap", "a.db3", "a.txt"])
def test_what_is_no_bag_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"nothing of the kind" * 10)
    with pytest.raises(ValueError, match="is no bag"):
        open_bag(tmp_path / name)
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(ValueError, match="is no bag"):
        open_bag(tmp_path / name)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="is no bag"):
        open_bag(tmp_path / "empty")
    with pytest.raises(FileNotFoundError):
        open_bag(tmp_path / "missing")


def test_one_unknown_type_leaves_the_others_readable(tmp_path):
    store = get_typestore(Stores.ROS2_JAZZY)
    kind = "my_msgs/msg/Own"
    store.register(get_types_from_msg("int32 a\n", kind))
    with Writer(tmp_path / "run", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        chatter = writer.add_connection("/chatter", STRING, typestore=store)
        own = writer.add_connection("/own", kind, msgdef="a b c\n???", rihs01="RIHS01_0")
        text = make_message(common_types(), STRING, {"data": "x"})
        writer.write(chatter, 1, store.serialize_cdr(text, STRING))
        writer.write(own, 2, bytes(8))
    reader = open_bag(tmp_path / "run")
    (data,) = [data for _, _, data in reader.messages(["/chatter"])]
    assert reader.deserialize("/chatter", data).data == "x"
    with pytest.raises(ValueError, match="my_msgs/msg/Own"):
        reader.deserialize("/own", bytes(8))


def test_a_message_that_does_not_fit_its_type_is_a_value_error(tmp_path):
    reader = open_bag(write(tmp_path / "a.mcap"))
    with pytest.raises(ValueError, match=STATUS):
        reader.deserialize("/target_status", b"\0\1\0\0short")


def test_topics_are_found_or_the_nearest_are_named(tmp_path):
    reader = open_bag(write(tmp_path / "a.mcap"))
    assert find_topic(reader, "", [STRING], "text") == "/chatter"
    with pytest.raises(ValueError, match="/target_status"):
        find_topic(reader, "/target_stauts", [STATUS], "status")
    with pytest.raises(ValueError, match=STRING):
        find_topic(reader, "/chatter", [STATUS], "status")
    with pytest.raises(ValueError, match="no image topics"):
        find_topic(reader, "", ["sensor_msgs/msg/Image"], "image")


@contextlib.contextmanager
def full_disk(room: int):
    """No file may grow beyond some bytes, which fails a write as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("name", ["a.mcap", "a.db3", "a"])
def test_a_full_disk_leaves_what_was_there(tmp_path, name):
    path = tmp_path / name
    if path.suffix:
        path.write_bytes(b"before")
    with full_disk(200_000), pytest.raises(OSError, match=str(path)):
        write(path, 20, "x" * 100_000)
    assert [entry.name for entry in tmp_path.iterdir()] == ([name] if path.suffix else [])
    if path.suffix:
        assert path.read_bytes() == b"before"


def test_names_and_topics_that_cannot_be_are_refused(tmp_path):
    with pytest.raises(ValueError, match="mcap"):
        BagWriter(tmp_path / "a.txt")
    write(tmp_path / "a")
    with pytest.raises(ValueError, match="already"):
        BagWriter(tmp_path / "a")
    writer = BagWriter(tmp_path / "b.mcap")
    writer.add_topic("/chatter", STRING)
    with pytest.raises(ValueError, match="--namespace"):
        writer.add_topic("/chatter", STRING)
    writer.discard()
    assert {entry.name for entry in tmp_path.iterdir()} == {"a"}


def test_the_definitions_are_those_of_the_package():
    store = get_typestore(Stores.ROS2_JAZZY)
    for kind, fields in common_types().fielddefs.items():
        store.fielddefs.setdefault(kind, fields)
    for path in sorted((PACKAGE / "msg").glob("Target*.msg")):
        kind = f"tracker_interfaces/msg/{path.stem}"
        if kind not in common_types().types:
            continue
        wanted = get_types_from_msg(path.read_text(), kind)[kind]
        assert common_types().fielddefs[kind] == wanted
    request, _, response = (PACKAGE / "srv" / "SelectTarget.srv").read_text().partition("---")
    for part, text in (("Request", request), ("Response", response)):
        kind = message_type(f"tracker_interfaces/srv/SelectTarget_{part}")
        wanted = get_types_from_msg(text, kind)[kind]
        assert common_types().fielddefs[kind][1] == wanted[1]


def test_contents_have_the_defaults_of_ros():
    message = make_message(common_types(), STATUS, {"label": "cup"})
    assert (message.label, message.state, message.header.stamp.sec) == ("cup", 0, 0)
    pose = make_message(common_types(), "geometry_msgs/msg/PoseWithCovariance", {})
    assert pose.covariance.tolist() == [0.0] * 36
    with pytest.raises(ValueError, match="lable"):
        make_message(common_types(), STATUS, {"lable": "cup"})
    info = make_message(common_types(), "sensor_msgs/msg/CameraInfo", {"k": np.eye(3)})
    assert info.k.shape == (9,)


def test_topics_are_copied_with_their_own_definitions(tmp_path):
    kind, text = "my_msgs/msg/Own", "int32 a\n"
    own = BagTopic("/own", kind, text)
    writer = BagWriter(tmp_path / "a.mcap")
    assert writer.copy_topic(own)
    assert writer.copy_topic(BagTopic("/chatter", STRING))
    assert not writer.copy_topic(BagTopic("/unknown", "my_msgs/msg/Other"))
    writer.copy("/own", 1, b"\0\1\0\0\7\0\0\0")
    writer.finish()
    reader = open_bag(tmp_path / "a.mcap")
    (data,) = [data for _, _, data in reader.messages(["/own"])]
    assert reader.deserialize("/own", data).a == 7
    assert set(reader.topics) == {"/own", "/chatter"}

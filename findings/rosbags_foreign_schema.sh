#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# rosbags 0.11.9, mcap 1.6.0.
#
# One topic of another encoding makes a whole MCAP file unreadable: Foxglove's recorders put messages
# as JSON or Protobuf beside those of ROS 2. The reader raises KeyError with the name of the encoding
# when the file is opened, although nobody has asked for that topic; mcap's own reader reads it.
#
# Expected: the messages of ROS 2, or an error that names the topic when it is asked for.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --quiet rosbags==0.11.9 mcap==1.6.0
"$work/venv/bin/python" - "$work" <<'PY'
import struct
import sys
from pathlib import Path

from mcap.reader import make_reader
from mcap.writer import Writer
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import Reader

path = Path(sys.argv[1]) / "run.mcap"
with path.open("wb") as file:
    writer = Writer(file)
    writer.start(profile="ros2")
    text = writer.register_schema("std_msgs/msg/String", "ros2msg", b"string data\n")
    chatter = writer.register_channel("/chatter", "cdr", text)
    other = writer.register_schema("Pose", "jsonschema", b'{"type": "object"}')
    pose = writer.register_channel("/pose", "json", other)
    hello = b"\x00\x01\x00\x00" + struct.pack("<I", 6) + b"hello\x00"
    writer.add_message(chatter, log_time=1, data=hello, publish_time=1)
    writer.add_message(pose, log_time=2, data=b"{}", publish_time=2)
    writer.finish()

with path.open("rb") as file:
    topics = [channel.topic for _, channel, _ in make_reader(file).iter_messages()]
print("mcap reads", topics)
assert topics == ["/chatter", "/pose"]
for name, opened in (("Reader", lambda: Reader(path)), ("AnyReader", lambda: AnyReader([path]))):
    try:
        with opened():
            raise SystemExit(f"{name} opens the file: the behaviour has changed")
    except KeyError as error:
        print(f"rosbags' {name} raises KeyError({error})")
PY
echo "unchanged"

#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# rclpy 7.1.6 (Jazzy), std_msgs of ros-common-interfaces 5.3.6, Python 3.11.
#
# A subscription takes `list().append` as its callback, but refuses `deque().append` and `str`
# with "no signature found": it reads the callback's signature, which not every built-in has.
#
# Expected: anything that can be called with one message.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --quiet "ros-rclpy[fastrtps]==7.1.6" ros-common-interfaces==5.3.6 numpy==2.2.6
cat > "$work/subscribe.py" <<'PY'
import collections

import rclpy
from std_msgs.msg import String

rclpy.init()
node = rclpy.create_node("listener")
for name, callback, taken in (
    ("list().append", [].append, True),
    ("deque().append", collections.deque().append, False),
    ("str", str, False),
):
    callback(String())  # each can be called with a message
    try:
        node.create_subscription(String, "topic", callback, 10)
        said = "accepted"
    except ValueError as error:
        said = f"ValueError: {error}"
    print(f"{name}: {said}")
    assert (said == "accepted") is taken
rclpy.shutdown()
PY
ROS_DOMAIN_ID=83 "$work/venv/bin/python" "$work/subscribe.py"
echo "unchanged"

#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# rclpy 7.1.6 with Fast DDS (Jazzy), ros-common-interfaces 5.3.6, Python 3.11.
#
# After `destroy_node()` a plain node has left Fast DDS, and with it its shared memory. A lifecycle
# node has not: its state machine keeps the participant, and half a megabyte or more in /dev/shm.
# `rclpy.shutdown()` does not change that. A process that then ends without tearing Python down
# (`os._exit`, as programs with threads in native code do) leaves the files behind for good.
#
# Expected: `destroy_node()` of either kind releases what the node holds.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --quiet "ros-rclpy[fastrtps]==7.1.6" ros-common-interfaces==5.3.6 numpy==2.2.6
cat > "$work/end.py" <<'PY'
import os
import sys

import rclpy
from rclpy.lifecycle import Node as LifecycleNode
from rclpy.node import Node


def segments():
    """Return the files of Fast DDS's shared memory that this process has mapped."""
    lines = open("/proc/self/maps").read().splitlines()
    return {line.split()[-1] for line in lines if "/dev/shm/fastrtps_" in line}


kind = {"plain": Node, "lifecycle": LifecycleNode}[sys.argv[1]]
rclpy.init()
node = kind("ending")
held = segments()
node.destroy_node()
rclpy.shutdown()
print(*sorted(path for path in held if os.path.exists(path) and "port" not in path), sep="\n")
sys.stdout.flush()
os._exit(0)
PY
for kind in plain lifecycle; do
    left="$(ROS_DOMAIN_ID=84 "$work/venv/bin/python" "$work/end.py" "$kind" | grep . || true)"
    count="$(printf '%s' "$left" | grep -c . || true)"
    echo "$kind node: $count files left in /dev/shm after the process has ended"
    for path in $left; do rm -f "$path" "${path}_el"; done
    if [ "$kind" = plain ]; then [ "$count" -eq 0 ]; else [ "$count" -gt 0 ]; fi
done
# Seen: 0 files of the plain node, 1 of the lifecycle node.
echo "unchanged"

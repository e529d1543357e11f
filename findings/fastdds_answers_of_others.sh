#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# rclpy 7.1.6 with rmw_fastrtps (Jazzy), std_srvs of ros-common-interfaces 5.3.6.
#
# Every client of a service receives the answers to all clients of that service into its own queue,
# and drops those of others only when it reads them. With the default depth of 10, a client that has
# a single request under way loses its answer if ten answers to others come after it before it reads.
# Nobody is told: the future never completes. Of thirty clients with one request each, ten are
# answered. A depth that holds the answers to all clients helps.
#
# Expected: every client receives the one answer that is its own.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --quiet "ros-rclpy[fastrtps]==7.1.6" ros-common-interfaces==5.3.6 numpy==2.2.6
cat > "$work/ask.py" <<'PY'
import subprocess
import sys
import time

import rclpy
from rclpy.qos import QoSProfile
from std_srvs.srv import Trigger


def spin(node, seconds, done=lambda: False):
    end = time.monotonic() + seconds
    while time.monotonic() < end and not done():
        rclpy.spin_once(node, timeout_sec=0.05)


def answer(request, response):
    response.success = True
    return response


rclpy.init()
if sys.argv[1:] == ["serve"]:
    server = rclpy.create_node("server")
    server.create_service(Trigger, "ask", answer, qos_profile=QoSProfile(depth=1000))
    rclpy.spin(server)

server = subprocess.Popen([sys.executable, __file__, "serve"])
try:
    node = rclpy.create_node("asker")
    for depth, expected in ((10, 10), (100, 30)):
        quality = QoSProfile(depth=depth)
        clients = [node.create_client(Trigger, "ask", qos_profile=quality) for _ in range(30)]
        assert all(client.wait_for_service(timeout_sec=30) for client in clients)
        spin(node, 3)  # all clients and the server have discovered each other
        futures = [client.call_async(Trigger.Request()) for client in clients]
        time.sleep(2)  # busy with something else while the answers come
        spin(node, 10, lambda: all(future.done() for future in futures))
        answered = sum(future.done() for future in futures)
        print(f"depth {depth}: 30 clients sent one request each, {answered} were answered")
        assert answered == expected
        for client in clients:
            node.destroy_client(client)
finally:
    server.kill()
PY
ROS_DOMAIN_ID=83 ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST RMW_IMPLEMENTATION=rmw_fastrtps_cpp \
  "$work/venv/bin/python" "$work/ask.py"
echo "unchanged"

#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# rclpy 7.1.6 (Jazzy), std_srvs of ros-common-interfaces 5.3.6.
#
# A service callback may be a coroutine. While it awaits a future, its mutually exclusive callback
# group stays closed, also with several threads: timers, subscriptions and other services of the same
# group, which is the node's default group, do not run until the future is done. `await` gives the
# thread back, but not the group.
#
# Expected: other callbacks of the group run while the coroutine waits, as in asyncio.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --quiet "ros-rclpy[fastrtps]==7.1.6" ros-common-interfaces==5.3.6 numpy==2.2.6
cat > "$work/wait.py" <<'PY'
import threading
import time

import rclpy
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.executors import MultiThreadedExecutor, SingleThreadedExecutor
from rclpy.task import Future
from std_srvs.srv import Trigger

WAIT_S = 1.0


def ticks_while_waiting(make_executor, own_group):
    """Count ticks of a 20 ms timer of the default group while a service awaits for a second."""
    node = rclpy.create_node("waiting")
    executor = make_executor()
    ticks, waiting = [], []

    async def serve(request, response):
        future = Future(executor=executor)
        threading.Timer(WAIT_S, lambda: (future.set_result(None), executor.wake())).start()
        waiting.append(time.monotonic())
        await future
        waiting.append(time.monotonic())
        response.success = True
        return response

    group = MutuallyExclusiveCallbackGroup() if own_group else None
    node.create_service(Trigger, "serve", serve, callback_group=group)
    node.create_timer(0.02, lambda: ticks.append(time.monotonic()))
    caller = rclpy.create_node("caller")
    client = caller.create_client(Trigger, "serve")
    executor.add_node(node)
    thread = threading.Thread(target=executor.spin, daemon=True)
    thread.start()
    assert client.wait_for_service(20)
    answer = client.call_async(Trigger.Request())
    rclpy.spin_until_future_complete(caller, answer, timeout_sec=20)
    assert answer.result().success
    executor.shutdown()
    thread.join(5)
    begin, end = waiting
    count = sum(begin + 0.1 < tick < end - 0.1 for tick in ticks)
    node.destroy_node()
    caller.destroy_node()
    return count


rclpy.init()
for name, make in (
    ("one thread", SingleThreadedExecutor),
    ("four threads", lambda: MultiThreadedExecutor(4)),
):
    shared = ticks_while_waiting(make, own_group=False)
    apart = ticks_while_waiting(make, own_group=True)
    print(f"{name}: ticks during a wait of 1 s: {shared} in the same group, {apart} with its own")
    assert shared == 0
    assert apart > 10
rclpy.shutdown()
PY
ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST ROS_DOMAIN_ID="${ROS_DOMAIN_ID:-87}" "$work/venv/bin/python" "$work/wait.py"
echo "unchanged"

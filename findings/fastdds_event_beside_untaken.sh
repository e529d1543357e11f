#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# rclpy 7.1.6 (Jazzy) with rmw_fastrtps_cpp, std_msgs of ros-common-interfaces 5.3.6.
#
# A subscription has events beside its messages, such as "a publisher's QoS does not fit". rclpy waits
# for two of them by default. If messages are taken by hand, so that the executor waits for the events
# but not for the subscription, each message that has not been taken yet ends every wait at once. None
# of the events has occurred, so nothing is called, and the executor waits again: it takes all the
# processor time that it can get, and keeps Python's lock from other threads. Messages of a
# subscription without its events in the wait set wait in peace.
#
# Expected: a wait for an event ends when the event occurs.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --quiet "ros-rclpy[fastrtps]==7.1.6" ros-common-interfaces==5.3.6 numpy==2.2.6
cat > "$work/wait.py" <<'PY'
import time

import rclpy
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.executors import SingleThreadedExecutor
from rclpy.subscription import Subscription
from std_msgs.msg import String


class OnlyEvents(ReentrantCallbackGroup):
    def can_execute(self, entity):
        return not isinstance(entity, Subscription)


class Nothing(ReentrantCallbackGroup):
    def can_execute(self, entity):
        return False


def busy_share(group, messages):
    """Return the share of a second in which an executor with nothing to do keeps a core busy."""
    node = rclpy.create_node("waiting")
    publisher = node.create_publisher(String, "topic", 1)
    node.create_subscription(String, "topic", lambda message: None, 1, callback_group=group)
    while publisher.get_subscription_count() == 0:
        time.sleep(0.05)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    executor.spin_once(timeout_sec=0.5)
    for _ in range(messages):
        publisher.publish(String(data="untaken"))
    used = time.thread_time()
    executor.spin_once(timeout_sec=1.0)
    used = time.thread_time() - used
    executor.shutdown()
    node.destroy_node()
    return used


rclpy.init()
shares = {
    "events, no message": busy_share(OnlyEvents(), 0),
    "events, one untaken message": busy_share(OnlyEvents(), 1),
    "no events, one untaken message": busy_share(Nothing(), 1),
}
for name, share in shares.items():
    print(f"{name}: {100 * share:.0f} % of a core")
quiet, busy, without = shares.values()
assert quiet < 0.1 and without < 0.1
assert busy > 0.2, "the machine is too busy, or the behaviour has changed"
rclpy.shutdown()
PY
ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST ROS_DOMAIN_ID="${ROS_DOMAIN_ID:-87}" "$work/venv/bin/python" "$work/wait.py"
echo "unchanged"

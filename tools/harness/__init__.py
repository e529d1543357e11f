# SPDX-License-Identifier: Apache-2.0
"""Start nodes, play camera and operator for them, and record what they publish.

One harness for the demo, the soak test, the latency benchmark and the tests:

- `domain.private_domain()` reserves a ROS domain that nothing else on this host uses;
- `program.Program` starts a program as a process of its own, keeps its log and ends it;
- `operator.Operator` is a node that publishes images, calls the tracker's services, waits for
  states and records topics;
- `ground_station.GroundStation` speaks MAVLink to a camera, and `ground_station.BadLink` loses,
  doubles, damages and reorders its packets.

    with private_domain(), Program(node_command("track"), log=Path("track.log")) as program:
        rclpy.init()
        with Operator(alive=lambda: program.alive) as operator:
            operator.until(operator.watched, "the tracker's subscription to images")
            answer = operator.select((320, 180, 40, 90), label="person")
"""


class HarnessError(RuntimeError):
    """What was awaited did not happen; the message says what and why."""

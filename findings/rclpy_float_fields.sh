#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# rclpy 7.1.6 (Jazzy), std_msgs of ros-common-interfaces 5.3.6, NumPy 2.2.6.
#
# A float64 or float32 field accepts an int or a numpy.float32 without a word, and what is sent is
# another number: the converter reads the object's memory as if it were a Python float. 640 goes out
# as 5e-324. numpy.float64 is safe, because it is a subclass of float. The check that would say so is
# off unless ROS_PYTHON_CHECK_FIELDS=1 is set before the message module is imported.
#
# Expected: 640.0, or a TypeError.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --quiet "ros-rclpy[fastrtps]==7.1.6" ros-common-interfaces==5.3.6 numpy==2.2.6
cat > "$work/send.py" <<'PY'
import os

import numpy as np
from rclpy.serialization import deserialize_message, serialize_message
from std_msgs.msg import Float32, Float64

checked = bool(os.environ.get("ROS_PYTHON_CHECK_FIELDS"))
for kind in (Float64, Float32):
    for value in (640.0, np.float64(640), 640, np.int64(640), np.float32(640)):
        try:
            message = kind()
            message.data = value
            received = deserialize_message(serialize_message(message), kind).data
        except AssertionError as error:
            received = f"AssertionError: {error}"
        name = f"{kind.__name__} {type(value).__name__}"
        print(f"check={checked} {name:20} 640 -> {received}")
        if isinstance(value, float):
            assert received == 640.0, name
        elif checked:
            assert isinstance(received, str), name
        else:
            assert received != 640.0 and abs(received) < 1e-300, name
PY
env -u ROS_PYTHON_CHECK_FIELDS "$work/venv/bin/python" "$work/send.py"
ROS_PYTHON_CHECK_FIELDS=1 "$work/venv/bin/python" "$work/send.py"
echo "unchanged"

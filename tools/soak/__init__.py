# SPDX-License-Identifier: Apache-2.0
"""`python -m tools.soak`: minutes of everything that goes wrong on a robot, then a verdict."""

import os

# Messages then check what is assigned to them: a number of the wrong type is sent as another one.
os.environ.setdefault("ROS_PYTHON_CHECK_FIELDS", "1")

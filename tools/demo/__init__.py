# SPDX-License-Identifier: Apache-2.0
"""`make demo`: real footage followed through the ROS graph, recorded and judged."""

import os

# Messages then check what is assigned to them: a number of the wrong type is sent as another one.
os.environ.setdefault("ROS_PYTHON_CHECK_FIELDS", "1")

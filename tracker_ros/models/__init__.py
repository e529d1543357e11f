# SPDX-License-Identifier: Apache-2.0
"""Networks and the trackers built on them; nothing here knows of ROS."""

import os

# OpenMP's threads wait for each other by spinning. Where another program wants the same cores, as
# on every robot, a spinning thread keeps off the one it waits for, and a frame takes up to thirty
# times as long; sleeping threads cost nothing measurable on an idle machine. Read by OpenMP when
# torch is imported, so a caller who imports torch first decides for himself.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

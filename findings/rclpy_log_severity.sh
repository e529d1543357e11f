#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# rclpy 7.1.6 (Jazzy).
#
# A line of code that logs at one severity may never log at another: the second call raises
# ValueError, "Logger severity cannot be changed between calls". So `(log.warning if bad else
# log.info)(text)` ends a node on the day on which something is bad for the first time. Two lines
# work.
#
# Expected: a warning in the log.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --quiet "ros-rclpy[fastrtps]==7.1.6" numpy==2.2.6
cat > "$work/log.py" <<'PY'
from rclpy.logging import get_logger

logger = get_logger("battery")


def tell(bad):
    log = logger.warning if bad else logger.info
    log(f"the voltage is {'low' if bad else 'good'}")


tell(bad=False)
try:
    tell(bad=True)
except ValueError as error:
    print(f"ValueError: {error}")
else:
    raise SystemExit("changed: it was logged")
tell(bad=False)
PY
"$work/venv/bin/python" "$work/log.py"
echo "unchanged"

#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# pymavlink 2.4.50.
#
# mavutil.mavlink_connection opens MAVLink 1, in which the camera's tracking messages do not exist, and
# still does when MAVLINK20 is set after the import, or when a dialect is passed. Only MAVLINK20 set
# before the import opens MAVLink 2. TARGET_RELATIVE, which MAVLink's `development` dialect defines, is in no dialect at
# all, not even in the one of that name.
#
# Expected: MAVLink 2, which is ten years old; in the dialect `development` what MAVLink calls so.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --quiet pymavlink==2.4.50
cat > "$work/open.py" <<'PY'
import os
import sys

from pymavlink import mavutil

if sys.argv[1] == "after":
    os.environ["MAVLINK20"] = "1"
options = {"dialect": "common"} if sys.argv[1] == "dialect" else {}
link = mavutil.mavlink_connection("udpout:127.0.0.1:14999", **options)
version = mavutil.mavlink.WIRE_PROTOCOL_VERSION
there = hasattr(link.mav, "camera_tracking_image_status_send")
print(f"{sys.argv[1]:8} MAVLink {version}, CAMERA_TRACKING_IMAGE_STATUS: {there}")
assert (version, there) == (("2.0", True) if sys.argv[1] == "before" else ("1.0", False))
PY
unset MAVLINK20
"$work/venv/bin/python" "$work/open.py" default
"$work/venv/bin/python" "$work/open.py" after
MAVLINK20=1 "$work/venv/bin/python" "$work/open.py" before
"$work/venv/bin/python" "$work/open.py" dialect
"$work/venv/bin/python" - <<'PY'
import pkgutil

from pymavlink.dialects import v20

names = [module.name for module in pkgutil.iter_modules(v20.__path__)]
files = [f"{v20.__path__[0]}/{name}.py" for name in names]
having = [name for name, file in zip(names, files) if "TARGET_RELATIVE" in open(file).read()]
print(f"TARGET_RELATIVE in {having} of {len(names)} dialects, 'development' among them: "
      f"{'development' in names}")
assert "development" in names and having == []
PY
echo "unchanged"

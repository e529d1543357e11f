# SPDX-License-Identifier: Apache-2.0
"""Open the console on the demo's footage, which is played again and again.

make console                     # then open http://127.0.0.1:8060/ in a browser
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

from tools.demo.run_demo import load_footage


def main() -> None:
    """Become `ros2 launch` with tracker, footage and console."""
    parser = argparse.ArgumentParser(prog="make console", description=__doc__.splitlines()[0])
    parser.add_argument("--synthetic", action="store_true", help="use the built-in scene")
    footage, _ = load_footage(parser.parse_args().synthetic)
    parameters = Path(tempfile.mkdtemp()) / "console.yaml"
    parameters.write_text(
        f"/**/video:\n  ros__parameters: {{rate: {footage.rate_hz}, loop: true}}\n"
    )
    command = ["ros2", "launch", "tracker_ros", "track.launch.py", "console:=true"]
    command += [f"video:={footage.source}", f"params_file:={parameters}"]
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()

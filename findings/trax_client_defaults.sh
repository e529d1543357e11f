#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# vot-trax 4.0.2 on Python 3.11.7.
#
# The client cannot be used with its own defaults: `Client(streams)` has `log=False` and raises
# ctypes.ArgumentError before it says anything to the tracker, and `frame(images)` has `objects=None` and
# raises TypeError. With a function that takes the log, and an empty list, all is well.
#
# Expected by who follows the documentation: that arguments with defaults may be left out.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --quiet vot-trax==4.0.2 six==1.17.0 numpy
cat >"$work/server.py" <<'PY'
from trax import Image, Region, TraxStatus
from trax.server import Server

with Server([Region.RECTANGLE], [Image.PATH], multiobject=True) as server:
    objects = []
    while (request := server.wait()).type != TraxStatus.QUIT:
        objects = [(region, {}) for region, _ in request.objects or []] or objects
        server.status(objects)
PY
cat >"$work/client.py" <<'PY'
import subprocess
import sys

from trax.client import Client
from trax.image import FileImage
from trax.region import Rectangle


def start(**options):
    command = [sys.executable, sys.argv[1]]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    try:
        return Client((server.stdin.fileno(), server.stdout.fileno()), **options), server
    except Exception:
        server.kill()
        server.wait()
        raise


def failure(call):
    try:
        call()
    except Exception as error:
        print(f"{type(error).__name__}: {error}")
        return type(error).__name__
    print("it works")
    return ""


assert failure(start) == "ArgumentError", "the behaviour has changed"
client, server = start(log=lambda text: None)
image = {"color": FileImage.create("/tmp/none.png")}
client.initialize(image, [(Rectangle.create(1, 2, 3, 4), {})], {})
assert failure(lambda: client.frame(image)) == "TypeError", "the behaviour has changed"
assert failure(lambda: client.frame(image, objects=[])) == "", "the behaviour has changed"
client.quit()
server.wait()
PY
"$work/venv/bin/python" "$work/client.py" "$work/server.py"
echo "unchanged"

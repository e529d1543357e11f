#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# vot-toolkit 0.9.0 with attributee 0.1.10 on Python 3.11.7.
#
# `pip install vot-toolkit` brings attributee 0.1.10, which uses `typing.dataclass_transform`, where there
# is one (Python 3.11 and later), as a plain decorator. That function takes keyword arguments only, so
# `import attributee`, and with it `import vot` and the command `vot`, raise TypeError. With attributee
# 0.1.9 all is well.
#
# Expected by who installs the toolkit: that it can be imported.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
for version in 0.1.9 0.1.10; do
  "$work/venv/bin/pip" install --quiet --quiet --no-deps attributee==$version
  "$work/venv/bin/python" - "$version" <<'PY'
import sys

version, fails = sys.argv[1], False
try:
    import attributee  # noqa: F401
except TypeError as error:
    print(f"attributee {version}: TypeError: {error}")
    fails = True
else:
    print(f"attributee {version} can be imported")
assert fails == (version == "0.1.10" and sys.version_info >= (3, 11)), "the behaviour has changed"
PY
done
echo "unchanged"

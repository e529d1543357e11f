#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# CPython 3.11.7. No package is needed.
#
# When a module is imported while the disk is nearly full (here: a limit of the size of files), the
# system writes less of its bytecode than asked. Python does not look at how much was written, and
# renames the cut file to its place in __pycache__. From then on the module cannot be imported,
# "EOFError: marshal data too short", however much space there is, until somebody removes the file.
#
# Expected: no bytecode is kept, or a cut one is compiled again.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cd "$work"
unset PYTHONDONTWRITEBYTECODE PYTHONPYCACHEPREFIX
python3 --version
python3 -c 'print("values = {", *(f"\"name {i}\": {i}.5," for i in range(4000)), "}")' > large.py
(ulimit -f 8; python3 -c 'import large; print("on a full disk:", len(large.values), "values")')
stat -c '%n has %s bytes' __pycache__/large.*.pyc
if python3 -c 'import large' 2> error; then
  echo "changed: the module can be imported"
  exit 1
fi
tail -n 1 error
grep -q "EOFError: marshal data too short" error
rm -r __pycache__
python3 -c 'import large; print("without the bytecode:", len(large.values), "values")'
echo "unchanged"

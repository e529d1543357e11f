#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# onnxruntime 1.31.1 (Linux wheel; 1.27.0 does not do it, 1.29.0 does).
#
# `import onnxruntime` alone writes an identifier of the machine and a database into the user's
# cache, a session file into the folder for temporary files, and starts a thread that reports to a
# collector of Microsoft. A robot with internet reports; one without collects what it would report.
# onnxruntime.disable_telemetry_events() comes too late for that. ORT_DISABLE_TELEMETRY=1, set before
# the import, prevents all of it. (Where the variable CI is set, as it is on test machines, nothing
# is written, so tests do not show it.)
#
# Expected: a library that computes graphs writes nothing and talks to nobody when it is imported.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --quiet onnxruntime==1.31.1
written() { # what an import leaves in an empty home, with further settings of the environment
  rm -rf "$work/home" && mkdir "$work/home"
  env -i PATH="$PATH" HOME="$work/home" TMPDIR="$work/home" "$@" \
    "$work/venv/bin/python" -c "import onnxruntime; onnxruntime.disable_telemetry_events()"
  (cd "$work/home" && find . -type f ! -name "mat-debug*" | sort)
}
usual="$(written)"
off="$(written ORT_DISABLE_TELEMETRY=1)"
printf 'as installed:\n%s\nwith ORT_DISABLE_TELEMETRY=1:\n%s\n' "$usual" "${off:-(nothing)}"
grep -q 'DeveloperTools/.onnxruntime/deviceid$' <<< "$usual"
grep -q 'DeveloperTools/.onnxruntime/onnxruntime.db$' <<< "$usual"
[ -z "$off" ]
echo "unchanged"

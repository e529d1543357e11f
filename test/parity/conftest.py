# SPDX-License-Identifier: Apache-2.0
"""Parity tests read cases and shapes from the golden files, so those must be there to collect."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from golden_files import folder  # noqa: E402

try:
    folder()
except FileNotFoundError as error:
    raise pytest.UsageError(str(error)) from error

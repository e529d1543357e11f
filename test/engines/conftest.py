# SPDX-License-Identifier: Apache-2.0
"""Lets the tests of engines import the stand-ins beside them."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

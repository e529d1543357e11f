# SPDX-License-Identifier: Apache-2.0
"""Refuses to import the packages of REFUSED_PACKAGES, as if they were not installed."""

import os
import sys

for _name in os.environ.get("REFUSED_PACKAGES", "").split():
    sys.modules[_name] = None

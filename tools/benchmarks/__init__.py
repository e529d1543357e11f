# SPDX-License-Identifier: Apache-2.0
"""Measurements that the documents quote; run them as `python -m tools.benchmarks.NAME`."""

# Before torch: it sets how OpenMP's threads wait, as for every user of the package.
import tracker_ros  # noqa: F401

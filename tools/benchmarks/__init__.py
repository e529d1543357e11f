# SPDX-License-Identifier: Apache-2.0
"""Measurements that the documents quote; run them as `python -m tools.benchmarks.NAME`."""

# SPDX-License-Identifier: Apache-2.0
"""Measurements that the documents quote; run as `python -m benchmarks.<name>`."""

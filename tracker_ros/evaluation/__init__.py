# SPDX-License-Identifier: Apache-2.0
"""Measuring trackers: pure functions over boxes, readers of benchmark folders, and reports."""

# SPDX-License-Identifier: Apache-2.0
"""Losses, labels, schedules and the trainer."""

# SPDX-License-Identifier: Apache-2.0
"""The programs between the tracker and a robot."""

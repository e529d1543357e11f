# SPDX-License-Identifier: Apache-2.0
"""Development programs that are not installed: demo, soak test, benchmarks."""

# SPDX-License-Identifier: Apache-2.0
"""Programs for development: demo, soak test, benchmarks, generated documents. Never installed."""

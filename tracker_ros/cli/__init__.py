# SPDX-License-Identifier: Apache-2.0
"""The command line `tracker-ros`: one module per command, heavy imports only when one runs."""

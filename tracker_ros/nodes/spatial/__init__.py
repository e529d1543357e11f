# SPDX-License-Identifier: Apache-2.0
"""What the tracker hears and publishes about where targets are in space."""

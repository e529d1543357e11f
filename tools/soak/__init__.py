# SPDX-License-Identifier: Apache-2.0
"""`dev/soak`: the real node under a camera and an operator who do everything wrong, for long."""

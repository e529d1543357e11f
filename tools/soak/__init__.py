# SPDX-License-Identifier: Apache-2.0
"""`python -m tools.soak`: minutes of everything that goes wrong on a robot, then a verdict."""

# SPDX-License-Identifier: Apache-2.0
"""GRM: one stream in which each search token may or may not meet the template."""

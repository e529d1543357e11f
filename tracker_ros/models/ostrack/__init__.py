# SPDX-License-Identifier: Apache-2.0
"""OSTrack: one stream, template and search region together."""

# SPDX-License-Identifier: Apache-2.0
"""TrDiMP and TrSiam: a target filter learned online, with a transformer that remembers."""

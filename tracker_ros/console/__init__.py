# SPDX-License-Identifier: Apache-2.0
"""The console: a page in the browser that shows cameras and targets and takes selections."""

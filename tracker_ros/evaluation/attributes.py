# SPDX-License-Identifier: Apache-2.0
"""What makes a sequence difficult, as data sets tell: VOT by frame, UAV123 by sequence."""

from __future__ import annotations

import logging
from pathlib import Path

from tracker_ros.evaluation.annotations import read_flags

_LOG = logging.getLogger(__name__)
_UAV123 = (
    *("scale variation", "aspect ratio change", "low resolution", "fast motion"),
    *("full occlusion", "partial occlusion", "out of view", "background clutter"),
    *("illumination variation", "viewpoint change", "camera motion", "similar object"),
)
"""In the order of its files."""


def read_attributes(truth: Path) -> list[str]:
    """Return the attributes that files beside a file of annotations name; empty without any.

    VOT has a file ``NAME.tag`` for each attribute, with 1 for each frame that has it. UAV123 has
    twelve flags in ``att/SEQUENCE.txt``. A file that cannot be read is logged and left out.
    """
    found = []
    for file in sorted(truth.parent.glob("*.tag")):
        try:
            if read_flags(file).any():
                found.append(file.stem.replace("_", " "))
        except ValueError as error:
            _LOG.warning("attributes: %s", error)
    table = truth.parent / "att" / truth.name
    if table.is_file():
        try:
            flags = read_flags(table)
            if len(flags) != len(_UAV123):
                raise ValueError(f"{table} has {len(flags)} flags, expected {len(_UAV123)}")
            found += [name for name, flag in zip(_UAV123, flags, strict=True) if flag]
        except ValueError as error:
            _LOG.warning("attributes: %s", error)
    return found

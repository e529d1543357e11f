# SPDX-License-Identifier: Apache-2.0
"""Which places of earlier frames the pixels of a frame were read from, for people to look at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tracker_ros.arrays import Array, to_numpy
from tracker_ros.cuda.local_attention_numpy import expected_offset
from tracker_ros.models.mast.config import PropagationParameters
from tracker_ros.models.mast.matching import Reference, search_dilation


class Match(NamedTuple):
    """Where a cell was read from: reference, row and column of a cell, and weight in (0, 1]."""

    reference: int
    row: float
    column: float
    weight: float


def matched_places(
    query: Array,
    references: Sequence[Reference],
    cells: Sequence[tuple[int, int]],
    parameters: PropagationParameters,
) -> list[Match]:
    """Return the place with the largest weight for some cells of a frame.

    Args:
        query: (1, C, h, w) float32 features of the frame.
        references: As in `matching.colourise`.
        cells: Rows and columns.
        parameters: Radius and long-term rule.
    """
    radius = parameters.radius
    query = to_numpy(query)
    _, _, height, width = query.shape
    steps = np.arange(-radius, radius + 1)
    keys = [to_numpy(reference.features) for reference in references]
    offsets = []
    for reference, key in zip(references, keys, strict=True):
        dilation = search_dilation(reference.gap, parameters)
        offsets.append(expected_offset(query, key, radius, dilation) if dilation else None)
    matches = []
    for row, column in cells:
        scores, places = [], []
        for key, offset in zip(keys, offsets, strict=True):
            down, across = 0, 0
            if offset is not None:  # to whole cells: what is shown is no more exact
                across, down = (round(value) for value in offset[0, row, column].tolist())
            rows, columns = np.meshgrid(row + down + steps, column + across + steps, indexing="ij")
            inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
            places.append((rows, columns))
            at = rows.clip(0, height - 1), columns.clip(0, width - 1)
            alike = np.einsum("c,cyx->yx", query[0, :, row, column], key[0][:, at[0], at[1]])
            scores.append(np.where(inside, alike, 0).ravel())
        together = np.concatenate(scores)
        weights = np.exp(together - together.max())
        weights /= weights.sum()
        best = int(weights.argmax())
        number, place = divmod(best, len(steps) ** 2)
        found_rows, found_columns = places[number]
        matches.append(
            Match(
                number,
                float(found_rows.flatten()[place]),
                float(found_columns.flatten()[place]),
                float(weights[best]),
            )
        )
    return matches


def spread_over(mask: np.ndarray, count: int) -> list[tuple[int, int]]:
    """Return up to `count` rows and columns of a mask's (h, w) cells, evenly spread."""
    rows, columns = np.nonzero(mask)
    picked = np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int))
    return [(int(rows[i]), int(columns[i])) for i in picked] if len(rows) else []

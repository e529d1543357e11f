# SPDX-License-Identifier: Apache-2.0
"""Which places of earlier frames the pixels of a frame were read from, for people to look at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tracker_ros.cuda.local_attention import expected_offset
from tracker_ros.models.mast.config import PropagationParameters
from tracker_ros.models.mast.matching import Reference, search_dilation


class Match(NamedTuple):
    """Where a cell was read from: reference, row and column of a cell, and weight in (0, 1]."""

    reference: int
    row: float
    column: float
    weight: float


def matched_places(
    query: Tensor,
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
    _, _, height, width = query.shape
    steps = torch.arange(-radius, radius + 1, device=query.device)
    offsets = []
    for reference in references:
        dilation = search_dilation(reference.gap, parameters)
        key = reference.features
        offsets.append(expected_offset(query, key, radius, dilation) if dilation else None)
    matches = []
    for row, column in cells:
        scores, places = [], []
        for reference, offset in zip(references, offsets, strict=True):
            down, across = 0, 0
            if offset is not None:  # to whole cells: what is shown is no more exact
                across, down = (round(value) for value in offset[0, row, column].tolist())
            rows, columns = torch.meshgrid(
                row + down + steps, column + across + steps, indexing="ij"
            )
            inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
            places.append((rows, columns))
            at = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
            alike = torch.einsum(
                "c,cyx->yx", query[0, :, row, column], reference.features[0][:, at[0], at[1]]
            )
            scores.append(torch.where(inside, alike, torch.zeros_like(alike)).flatten())
        weights = torch.cat(scores).softmax(0)
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

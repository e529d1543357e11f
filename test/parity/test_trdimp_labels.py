# SPDX-License-Identifier: Apache-2.0
"""The transformer's Gaussian label, and the window over the score map."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from golden_files import golden

from tracker_ros.crops import hann_window
from tracker_ros.models.trdimp.config import RESNET50
from tracker_ros.models.trdimp.labels import gaussian_label


@pytest.mark.parametrize("end_pad", [False, True])
@pytest.mark.parametrize("size", [22, 14])
def test_gaussian_label(size: int, end_pad: bool) -> None:
    file = golden("trdimp_labels.npz")
    found = gaussian_label(
        torch.from_numpy(file["boxes"]),
        size,
        filter_size=RESNET50.filter_size,
        stride=RESNET50.stride,
        end_pad=end_pad,
    )
    wanted = file[f"label_{size}_endpad{int(end_pad)}"]
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-6, atol=1e-6 * wanted.max())


@pytest.mark.parametrize("size", [15, 23])
def test_window(size: int) -> None:
    wanted = golden("trdimp_labels.npz")[f"hann_{size}"]
    np.testing.assert_allclose(hann_window(size), wanted, rtol=1e-6, atol=1e-6)


def test_window_of_two_sizes() -> None:
    rows, columns = (np.sqrt(np.diag(hann_window(size))) for size in (13, 17))
    wanted = golden("trdimp_labels.npz")["hann_13x17"]
    np.testing.assert_allclose(np.outer(rows, columns), wanted, rtol=1e-6, atol=1e-6)

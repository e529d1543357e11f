# SPDX-License-Identifier: Apache-2.0
"""Sixty recorded updates of the sample memory, for three sizes of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from golden_files import golden

from tracker_ros.models.trdimp.config import BASE, VOT
from tracker_ros.models.trdimp.samples import SampleMemory

UNITS = golden("trdimp_tracker_units.npz")
RUNS = {
    "mem_trdimp": (15, BASE.init_samples_minimum_weight),
    "mem_trdimp_vot": (13, VOT.init_samples_minimum_weight),
    "mem_small_memory": (15, BASE.init_samples_minimum_weight),
}


@pytest.mark.parametrize("name", RUNS)
def test_sixty_updates(name: str) -> None:
    initial, least = RUNS[name]
    wanted, rates = UNITS[f"{name}_weights"], UNITS[f"{name}_lr"]
    capacity = wanted.shape[1]
    # A sample's number is its only feature and its box.
    memory = SampleMemory(torch.zeros(initial, 1, 1, 1), torch.zeros(initial, 4), capacity, least)
    for step, rate in enumerate(rates):
        number = torch.full((1,), float(step + 1))
        before = memory.features.flatten().clone()
        memory.add(number.view(1, 1, 1, 1), number.expand(4), float(rate))
        after = memory.features.flatten()
        assert after[int(UNITS[f"{name}_replaced"][step])] == step + 1
        changed = after.clone()
        changed[: len(before)] -= before
        assert changed.count_nonzero() == 1
        assert memory.weights.seen == UNITS[f"{name}_num_stored"][step]
        np.testing.assert_allclose(
            memory.weights.values, wanted[step], rtol=2e-6, atol=1e-9, err_msg=f"update {step}"
        )
        held = min(memory.weights.seen, capacity)
        assert len(memory.features) == len(memory.boxes) == len(memory.sample_weight) == held
    ids = UNITS[f"{name}_sample_ids"][: len(memory.features)]
    np.testing.assert_array_equal(memory.features.flatten().numpy(), ids)
    np.testing.assert_array_equal(memory.boxes.numpy(), np.repeat(ids[:, None], 4, axis=1))

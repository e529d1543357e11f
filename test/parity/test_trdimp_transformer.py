# SPDX-License-Identifier: Apache-2.0
"""The memory transformer of TrDiMP, stage by stage."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from golden_files import golden, helper, seed_of, stats
from torch import Tensor
from trdimp_golden_network import relative_difference, with_golden_weights

from tracker_ros.models.trdimp.config import RESNET50
from tracker_ros.models.trdimp.memory import (
    FixedTransformer,
    TransformerMemory,
)
from tracker_ros.models.trdimp.memory_transformer import (
    InstanceL2Norm,
    MemoryTransformer,
    images_of,
    tokens_of,
)

TOLERANCE = 1e-5


@cache
def transformer() -> MemoryTransformer:
    config = RESNET50
    module = MemoryTransformer(config.feature_dim, config.key_dim, config.norm_scale)
    return with_golden_weights(module, "classifier.transformer.")


@cache
def real_inputs() -> tuple[Tensor, Tensor, Tensor]:
    """Memory (15, 512, 22, 22), query (1, 512, 22, 22), labels (15, 1, 22, 22)."""
    arrays = helper("trdimp_inputs").transformer_inputs(seed_of("trdimp"), 15, 22, 22)
    memory, query, labels = (torch.from_numpy(array) for array in arrays)
    return memory, query, labels


def small_inputs() -> tuple[Tensor, Tensor, Tensor]:
    file = golden("trdimp_transformer.npz")
    memory, query, labels = (
        torch.from_numpy(file[f"small_{name}"]) for name in ("memory_in", "query_in", "label")
    )
    return memory, query, labels


class Recorder:
    """What modules returned, in order."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.outputs: list[Tensor] = []
        self.handle = module.register_forward_hook(self._record)

    def _record(self, module: torch.nn.Module, inputs: Any, output: Tensor) -> None:
        self.outputs.append(output)

    def __enter__(self) -> list[Tensor]:
        return self.outputs

    def __exit__(self, *error: object) -> None:
        self.handle.remove()


def check(found: Tensor, name: str) -> None:
    wanted = golden("trdimp_transformer.npz")[name]
    if wanted.ndim == 3 and wanted.shape[1] == 1:
        wanted = wanted[:, 0]
    assert relative_difference(found, wanted) < TOLERANCE, name


def test_instance_norm() -> None:
    file = golden("trdimp_backbone.npz")
    images = torch.from_numpy(file["l2norm_in"])
    assert relative_difference(InstanceL2Norm(0.25)(images), file["l2norm_out"]) < 1e-6


@torch.inference_mode()
def test_every_step_of_a_small_case() -> None:
    memory, query, labels = small_inputs()
    layer = transformer().decoder.layers[0]
    encoded = transformer().encode(memory)
    check(encoded, "small_encoded_feat")
    check(tokens_of(encoded), "small_encoded_tokens")
    with (
        Recorder(layer.self_attn) as itself,
        Recorder(layer.cross_attn) as across,
        Recorder(layer.norm) as norms,
    ):
        decoded = transformer().decode(query, encoded, labels)
    check(itself[0][0], "small_dec_self_attn_out")
    check(across[0][:, :1], "small_dec_mask")
    check(across[0][:, 1:], "small_dec_feat_attn_out")
    check(norms[0], "small_dec_after_self_norm")
    check(norms[1], "small_dec_mask_norm")
    check(norms[2], "small_dec_feat_norm")
    check(decoded, "small_decoded_feat")


def test_encoder_and_decoder_share_their_self_attention() -> None:
    module = transformer()
    assert module.encoder.layers[0].self_attn is module.decoder.layers[0].self_attn


@torch.inference_mode()
def test_a_case_of_real_size() -> None:
    file = golden("trdimp_transformer.npz")
    memory, query, labels = real_inputs()
    check(labels[:, :, ::4, ::4], "real_label_sub")
    encoded = transformer().encode(memory)
    check(encoded[:, ::32, ::4, ::4], "real_encoded_sub")
    np.testing.assert_allclose(stats(encoded.numpy()), file["real_encoded_stats"], rtol=1e-5)
    with Recorder(transformer().decoder.layers[0].cross_attn) as across:
        decoded = transformer().decode(query, encoded, labels)
    check(decoded[:, ::4, ::2, ::2], "real_decoded_sub")
    np.testing.assert_allclose(stats(decoded.numpy()), file["real_decoded_stats"], rtol=1e-5)
    attended = images_of(across[0], 22, 22)[0]
    check(attended[0], "real_mask")
    check(attended[1:].permute(1, 2, 0)[::3, ::3, ::8], "real_dec_feat_attn_sub")


@pytest.mark.parametrize("queries", [1, 2])
def test_sequences_of_a_batch_do_not_see_each_other(queries: int) -> None:
    memory, query, labels = small_inputs()
    sequences = [
        (memory, query.repeat(queries, 1, 1, 1) * 0.5, labels),
        (memory.flip(0) * 2.0, torch.cat([query, memory[:1]])[:queries], labels.flip(2)),
    ]
    module = transformer()
    with torch.inference_mode():
        alone = [module.decode(q, module.encode(m), target) for m, q, target in sequences]
        memories, searched, marks = (torch.stack(part) for part in zip(*sequences, strict=True))
        together = module.decode(searched, module.encode(memories), marks)
    for index, wanted in enumerate(alone):
        assert relative_difference(together[index], wanted.numpy()) < TOLERANCE


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
@torch.inference_mode()
def test_what_the_tracker_runs(packed: bool) -> None:
    fixed = FixedTransformer(transformer(), packed=packed)
    memory, query, labels = small_inputs()
    small = TransformerMemory(fixed, memory, labels, limit=20)
    check(small.encoded, "small_encoded_feat")
    check(small.decode(query), "small_decoded_feat")
    memory, query, labels = real_inputs()
    real = TransformerMemory(fixed, memory, labels, limit=20)
    check(real.encoded[:, ::32, ::4, ::4], "real_encoded_sub")
    check(real.decode(query)[:, ::4, ::2, ::2], "real_decoded_sub")

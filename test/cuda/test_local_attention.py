# SPDX-License-Identifier: Apache-2.0
"""Local attention by compiled kernels against plain torch; golden data: test/parity."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tracker_ros.cuda import build, local_attention_numpy
from tracker_ros.cuda.local_attention import expected_offset, local_attention
from tracker_ros.cuda.local_attention_reference import (
    expected_offset_reference,
    local_attention_reference,
)

OPERATORS = torch.ops.tracker_ros
TOLERANCE = {torch.float32: 2e-4, torch.float64: 1e-10}
CPU = torch.device("cpu")

# Batch, channels, rows, columns, references, values, radius.
SHAPES = [
    pytest.param((1, 6, 7, 9, 2, 3, 3), id="channels no multiple of four"),
    pytest.param((2, 4, 3, 40, 1, 9, 12), id="more values than one call takes"),
    pytest.param((1, 8, 33, 5, 3, 2, 2), id="narrow"),
    pytest.param((1, 4, 9, 20, 2, 2, 7), id="all of a narrow window's lanes"),
    pytest.param((1, 4, 9, 20, 2, 2, 8), id="a few of a wide window's lanes"),
    pytest.param((1, 4, 6, 8, 2, 2, 16), id="wider windows than the kernels"),
]


class Case:
    """Random maps; every second reference is displaced, far enough to leave the map."""

    def __init__(
        self, shape: tuple[int, ...], dtype: torch.dtype = torch.float64, device: str = "cpu"
    ) -> None:
        generator = torch.Generator().manual_seed(0)

        def random(*size: int) -> Tensor:
            drawn = torch.randn(*size, generator=generator, dtype=torch.float64)
            return drawn.to(device, dtype)

        batch, channels, height, width, references, classes, self.radius = shape
        self.query = random(batch, channels, height, width)
        self.keys = [random(batch, channels, height, width) for _ in range(references)]
        self.values = [random(batch, classes, height, width) for _ in range(references)]
        self.offsets = [
            random(batch, height, width, 2) * 6 if index % 2 == 0 else None
            for index in range(references)
        ]

    @property
    def arguments(self) -> tuple[Tensor, list[Tensor], list[Tensor], list[Tensor | None], int]:
        return self.query, self.keys, self.values, self.offsets, self.radius


@pytest.fixture(params=["compiled", "fallback"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run with the compiled kernels, then as where there is no compiler."""
    if request.param == "compiled":
        assert build.kernels("local_attention", CPU) is not None
    else:
        for device in (CPU, "cpu"):
            monkeypatch.setitem(build._found, ("local_attention", device), None)
    return request.param


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_plain_torch(form: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    case = Case(shape, dtype)
    found, wanted = local_attention(*case.arguments), local_attention_reference(*case.arguments)
    assert found.dtype == dtype
    torch.testing.assert_close(found, wanted, rtol=0, atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dilation", [1, 2, 3, 4])
@pytest.mark.parametrize("shape", SHAPES)
def test_expected_offset_equals_plain_torch(
    form: str, shape: tuple[int, ...], dilation: int
) -> None:
    case = Case(shape)
    arguments = case.query, case.keys[0], case.radius, dilation
    found, wanted = expected_offset(*arguments), expected_offset_reference(*arguments)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-10)


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape.values[0][0] == 1])
def test_numpy_equals_plain_torch(form: str, shape: tuple[int, ...]) -> None:
    case = Case(shape)
    query, *maps, radius = case.arguments
    arrays = [[None if one is None else one.numpy() for one in some] for some in maps]
    found = local_attention_numpy.local_attention(query.numpy(), *arrays, radius)
    wanted = local_attention_reference(*case.arguments)
    torch.testing.assert_close(torch.from_numpy(found), wanted, rtol=0, atol=1e-10)
    for dilation in (1, 3):
        moved = local_attention_numpy.expected_offset(
            query.numpy(), arrays[0][0], radius, dilation
        )
        reference = expected_offset_reference(query, case.keys[0], radius, dilation)
        torch.testing.assert_close(torch.from_numpy(moved), reference, rtol=0, atol=1e-10)


def test_bands_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case((1, 4, 9, 8, 2, 2, 2))
    whole = local_attention_reference(*case.arguments)
    offset = expected_offset_reference(case.query, case.keys[0], 2, 3)
    monkeypatch.setattr("tracker_ros.cuda.local_attention_reference._BAND_VALUES", 1)
    torch.testing.assert_close(local_attention_reference(*case.arguments), whole)
    banded = expected_offset_reference(case.query, case.keys[0], 2, 3)
    torch.testing.assert_close(banded, offset)


def test_scores_that_overflow_alone_do_not_together(form: str) -> None:
    case = Case((1, 8, 6, 9, 3, 2, 3), torch.float32)
    case.query *= 1e4
    found = local_attention(*case.arguments)
    assert found.isfinite().all()
    double = (
        case.query.double(),
        *([m.double() for m in maps] for maps in (case.keys, case.values)),
    )
    offsets = [None if offset is None else offset.double() for offset in case.offsets]
    # One weight has it all, so only ties may tell the two apart.
    wanted = local_attention_reference(*double, offsets, case.radius)
    assert ((found - wanted).abs() < 1e-2).float().mean() > 0.95


def test_weights_add_up_to_one_where_nothing_is_outside(form: str) -> None:
    case = Case((1, 4, 9, 9, 2, 1, 2))
    ones = [torch.ones_like(value) for value in case.values]
    total = local_attention(case.query, case.keys, ones, [None, None], 2)[0, 0]
    inside = torch.zeros_like(total, dtype=torch.bool)
    inside[2:-2, 2:-2] = True
    torch.testing.assert_close(total[inside], torch.ones_like(total[inside]))
    assert (total[~inside] < 1 - 1e-6).all()


def test_displacements_that_leave_every_map_give_nothing(form: str) -> None:
    case = Case((1, 4, 6, 7, 1, 2, 2), torch.float32)
    for far in (1e30, -1e30, 60.0, -60.0):
        offset = torch.full((1, 6, 7, 2), far)
        assert not local_attention(case.query, case.keys, case.values, [offset], 2).any()


def test_gradients_of_plain_torch() -> None:
    case = Case((1, 2, 3, 4, 2, 2, 1))
    inputs = [case.query, *case.keys, *case.values, case.offsets[0]]
    for tensor in inputs:
        assert tensor is not None
        tensor.requires_grad_()

    def attend(query: Tensor, *others: Tensor) -> Tensor:
        offsets = [others[4], None]
        return local_attention_reference(query, others[:2], others[2:4], offsets, case.radius)

    assert torch.autograd.gradcheck(attend, inputs)
    assert torch.autograd.gradcheck(
        lambda query, key: expected_offset_reference(query, key, 1, 2), (case.query, case.keys[0])
    )


def test_opcheck() -> None:
    case = Case((1, 4, 3, 4, 2, 2, 1))
    still = torch.zeros_like(case.offsets[0])
    offsets = torch.stack([still if o is None else o for o in case.offsets], 1)
    stacks = torch.stack(case.keys, 1), torch.stack(case.values, 1), offsets
    torch.library.opcheck(OPERATORS.local_attention, (case.query, *stacks, 1))
    torch.library.opcheck(OPERATORS.expected_offset, (case.query, case.keys[0], 1, 3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keys": [torch.zeros(1, 4, 5, 7)]}, r"a key has shape \(1, 4, 5, 7\)"),
        ({"values": [torch.zeros(1, 3, 6, 7)]}, r"a value has shape \(1, 3, 6, 7\)"),
        ({"offsets": [torch.zeros(1, 5, 6, 3)]}, r"an offset has shape \(1, 5, 6, 3\)"),
        ({"offsets": []}, "1 keys, 1 values and 0 offsets"),
    ],
)
def test_arguments_are_checked_before_memory_is_read(
    change: dict[str, list[Tensor]], message: str
) -> None:
    maps = torch.zeros(1, 4, 5, 6)
    arguments = {"query": maps, "keys": [maps], "values": [maps], "offsets": [None], "radius": 2}
    with pytest.raises(ValueError, match=message):
        local_attention(**{**arguments, **change})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"key has shape \(1, 4, 5, 7\)"):
        expected_offset(maps, torch.zeros(1, 4, 5, 7), 2, 1)


@pytest.mark.gpu
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_plain_torch_on_a_gpu(shape: tuple[int, ...]) -> None:
    assert build.kernels("local_attention", torch.device("cuda", 0)) is not None
    case = Case(shape, device="cuda:0")
    found, wanted = local_attention(*case.arguments), local_attention_reference(*case.arguments)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-10)
    arguments = case.query, case.keys[0], case.radius, 3
    found, wanted = expected_offset(*arguments), expected_offset_reference(*arguments)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-10)

# SPDX-License-Identifier: Apache-2.0
"""Options of a model's family: how they are written, and what becomes of wrong ones."""

import pytest

from tracker_ros.model_options import checked_options, parse_options
from tracker_ros.registry import create_tracker


def factory(
    name: str,
    *,
    device: str,
    seed: int = 0,
    size: int | None = None,
    threshold: str | float = "default",
    aligned: bool = True,
) -> None:
    """Takes some options."""


def checked(**options):
    return checked_options(factory, "some_model", {"device"}, options)


def test_texts_become_what_the_factory_wants():
    texts = parse_options(["seed=7", "size=240", "threshold=0.4", "aligned=False"])
    assert checked(**texts) == {"seed": 7, "size": 240, "threshold": 0.4, "aligned": False}
    assert [type(value) for value in checked(**texts).values()] == [int, int, float, bool]
    assert checked(threshold="lasot") == {"threshold": "lasot"}
    assert checked(threshold=1, size=None, aligned=True) == {
        "threshold": 1.0,
        "size": None,
        "aligned": True,
    }
    assert checked() == {}


@pytest.mark.parametrize("text", ["seed", "seed=", "=3", "", "se ed=3"])
def test_what_is_no_option_is_refused(text):
    with pytest.raises(ValueError, match="write NAME=VALUE"):
        parse_options([text])


def test_one_name_twice_is_refused():
    with pytest.raises(ValueError, match="'seed' is given twice"):
        parse_options(["seed=1", "seed=2"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": "1.5"}, "option seed of model some_model is '1.5'; expected an integer"),
        ({"seed": True}, "seed of model some_model is True"),
        ({"seed": None}, "seed of model some_model is None"),
        ({"aligned": "yes"}, "is 'yes'; expected true or false"),
        ({"threshold": float("nan")}, "is nan; expected a number or a word"),
        ({"sede": 1}, r"no option 'sede'; it takes seed \(an integer; without it 0\), size \(an"),
        ({"device": "cpu"}, "no option 'device'"),
        ({"name": "x"}, "no option 'name'"),
    ],
)
def test_wrong_options_are_named_with_the_remedy(options, message):
    with pytest.raises(ValueError, match=message):
        checked(**options)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("ostrack_tiny", "ostrack_tiny has no option 'sead'; it takes none"),
        ("trdimp_tiny", "trdimp_tiny has no option 'sead'; it takes seed .an integer"),
    ],
)
def test_create_tracker_refuses_unknown_options(model, message):
    with pytest.raises(ValueError, match=message):
        create_tracker(model, device="cpu", sead="1")


def test_the_family_refuses_values_that_it_does_not_know(tmp_path):
    with pytest.raises(ValueError, match="threshold 'lasott' is unknown; expected a number from"):
        create_tracker("grm_vitb_256", weights=tmp_path / "none", threshold="lasott")
    with pytest.raises(ValueError, match="start_shape is 'star'|reference_mode is 'star'"):
        create_tracker("mast_resnet18", weights=tmp_path / "none", reference_mode="star")


def test_what_create_tracker_takes_by_itself_is_no_option():
    with pytest.raises(ValueError, match="'build_engine' is no option of a model's family"):
        parse_options(["build_engine=false"])

# SPDX-License-Identifier: Apache-2.0
"""Options of a model's family: how they are written, and what becomes of wrong ones."""

from dataclasses import dataclass, field, replace

import cv2
import numpy as np
import pytest

from tracker_ros.cli.main import main
from tracker_ros.model_cards import family_of
from tracker_ros.model_options import (
    Settings,
    checked_options,
    parse_options,
    with_settings,
)
from tracker_ros.registry import create_tracker, list_models, model_options


def factory(
    name: str,
    *,
    backend: str,
    seed: int = 0,
    size: int | None = None,
    threshold: str | float = "default",
    aligned: bool = True,
) -> None:
    """Takes some options."""


@dataclass(frozen=True)
class Nothing:
    """Settings without fields."""


def checked(**options):
    return checked_options(factory, "some_model", options, Settings(Nothing()))


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
        ({"sede": 1}, r"no option 'sede'; did you mean seed\? it takes seed, size, threshold"),
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
        ("ostrack_tiny", "ostrack_tiny has no option 'sead'; it takes template_size, search"),
        ("trdimp_tiny", r"has no option 'sead'; did you mean seed\? it takes seed, image_samp"),
    ],
)
def test_create_tracker_refuses_unknown_options(model, message):
    with pytest.raises(ValueError, match=message):
        create_tracker(model, device="cpu", sead="1")


@pytest.mark.parametrize("model", ["trdimp_tiny", "trsiam_tiny", "grm_tiny", "mast_tiny"])
def test_a_refusal_lists_all_options_even_on_the_command_line(model, tmp_path, capsys):
    picture = tmp_path / "picture.png"
    cv2.imwrite(str(picture), np.zeros((64, 64, 3), np.uint8))
    box = ["--box", "10", "10", "32", "32"]
    assert main(["track", str(picture), *box, "--model", model, "--option", "sead=1"]) == 2
    printed = capsys.readouterr().err
    assert all(name in printed for name in model_options(model))


def test_the_family_refuses_values_that_it_does_not_know(tmp_path):
    with pytest.raises(ValueError, match="threshold 'lasott' is unknown; expected a number from"):
        create_tracker("grm_vitb_256", weights=tmp_path / "none", threshold="lasott")
    with pytest.raises(ValueError, match="start_shape is 'star'|reference_mode is 'star'"):
        create_tracker("mast_resnet18", weights=tmp_path / "none", reference_mode="star")


def test_what_create_tracker_takes_by_itself_is_no_option():
    with pytest.raises(ValueError, match="'build_engine' is no option of a model's family"):
        parse_options(["build_engine=false"])


@dataclass(frozen=True)
class Inner:
    angles: tuple[float, ...] = (10, -10)
    blurs: tuple[tuple[float, float], ...] = ((3, 1), (1, 3))


@dataclass(frozen=True)
class Values:
    layers: tuple[int, ...] = (3, 6)
    step: float | tuple[float, float] = 0.1
    inner: Inner = field(default_factory=Inner)


def read(**options):
    settings = Settings(Values(), None, {"ce_loc": "layers"}, {"debug": "it draws windows"})
    return checked_options(factory, "some_model", options, settings)


def test_tuples_are_written_with_commas():
    assert read(layers="1,2,3") == read(layers=[1, 2, 3]) == {"layers": (1, 2, 3)}
    assert read(layers="4") == read(layers="(4,)") == {"layers": (4,)}
    assert read(layers="()") == {"layers": ()}
    assert read(step="0.1,2") == {"step": (0.1, 2.0)}
    assert read(step="0.2") == {"step": 0.2}
    assert read(inner_blurs="(3,1),(1,3)") == {"inner_blurs": ((3, 1), (1, 3))}
    assert read(inner_blurs="2,1") == {"inner_blurs": ((2, 1),)}


@pytest.mark.parametrize(
    "options",
    [{"layers": "1,x"}, {"layers": "1.5"}, {"step": "1,2,3"}, {"inner_blurs": "(1,2,3),"}],
)
def test_tuples_of_another_kind_are_refused(options):
    with pytest.raises(ValueError, match="expected"):
        read(**options)


def test_fields_of_a_field_are_options_too():
    changed = with_settings(Values(), read(inner_angles="5,", ce_loc="9,"))
    assert changed == Values(layers=(9,), inner=Inner(angles=(5,)))
    assert with_settings(Values(), {}) == Values()


def test_official_names_are_understood_in_any_case():
    assert read(CE_LOC="1,2") == read(LAYERS="1,2") == {"layers": (1, 2)}
    with pytest.raises(ValueError, match="'layers' is given twice"):
        read(ce_loc="1,", layers="1,")
    with pytest.raises(ValueError, match="'debug' is no option of model some_model: it draws"):
        read(debug=1)


@pytest.mark.parametrize("name", list_models())
def test_every_option_can_be_written_as_it_is_listed(name):
    family = family_of(name)
    settings = family.settings(name)
    texts = {k: v for k, v in model_options(name).items() if v != "none"}
    module, _, attribute = family.create.partition(":")
    create = getattr(__import__(module, fromlist=[attribute]), attribute)
    read_back = checked_options(create, name, texts, settings)
    changed = with_settings(settings.values, read_back)
    # What is listed is rounded to six digits.
    if hasattr(changed, "random_shift_factor"):
        changed = replace(changed, random_shift_factor=settings.values.random_shift_factor)
    assert changed == settings.values


OFFICIAL = {
    "trdimp_resnet50": """
        debug visualization use_gpu image_sample_size search_area_scale border_mode
        patch_max_scale_change sample_memory_size learning_rate init_samples_minimum_weight
        train_skipping update_classifier net_opt_iter net_opt_update_iter net_opt_hn_iter
        transformer_skipping transformer_memory_size window_output use_augmentation augmentation
        augmentation_expansion_factor random_shift_factor advanced_localization
        target_not_found_threshold distractor_threshold hard_negative_threshold
        target_neighborhood_scale dispalcement_scale perform_hn_without_windowing
        hard_negative_learning_rate update_scale_when_uncertain box_refinement_space
        iounet_augmentation iounet_k num_init_random_boxes box_jitter_pos box_jitter_sz
        maximal_aspect_ratio box_refinement_iter box_refinement_step_length
        box_refinement_step_decay net vot_anno_conversion_type
    """,
    "ostrack_vitb_256_ce": """
        SEARCH_FACTOR SEARCH_SIZE TEMPLATE_FACTOR TEMPLATE_SIZE EPOCH CE_LOC CE_KEEP_RATIO
        CE_TEMPLATE_RANGE debug checkpoint save_all_boxes
    """,
    "grm_vitb_256": """
        SEARCH_FACTOR SEARCH_SIZE TEMPLATE_FACTOR TEMPLATE_SIZE EPOCH TGT_TYPE HYPER
    """,
}
"""What the authors' parameter files set, by a model of the family."""


@pytest.mark.parametrize("name", OFFICIAL)
def test_every_official_parameter_is_an_option_or_explained(name):
    settings, options = family_of(name).settings(name), model_options(name)
    for official in OFFICIAL[name].lower().split():
        known = settings.official_names.get(official, official)
        assert known in options or known in settings.elsewhere, official
    assert set(settings.official_names.values()) <= set(options)
    assert not set(settings.elsewhere) & set(options)

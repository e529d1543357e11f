# SPDX-License-Identifier: Apache-2.0
"""Training that starts from a pretrained backbone: MAE's ViT, torchvision's ResNet."""

from dataclasses import replace

import pytest
import torch

from tracker_ros.checkpoints import convert_checkpoint, write_weights
from tracker_ros.model_cards import FAMILIES
from tracker_ros.models.one_stream.config import GRM_VITB_256, OSTRACK_VITB_256_CE
from tracker_ros.models.one_stream.network import resample_position_embedding
from tracker_ros.models.one_stream.ostrack import OSTrackNetwork
from tracker_ros.registry import models_to_train_from
from tracker_ros.synthetic.samples import PairBatch
from tracker_ros.training.tasks import open_task

from .conftest import RECIPES

WIDTH, DEPTH, HIDDEN = 48, 3, 192
SMALL = {
    "template_size": 32,
    "search_size": 64,
    "embed_dim": WIDTH,
    "depth": DEPTH,
    "num_heads": 2,
    "head_channels": 16,
}
PATCH = {
    "ostrack": replace(OSTRACK_VITB_256_CE, ce_layers=(1,), **SMALL),
    "grm": replace(GRM_VITB_256, division_widths=(24, 12), **SMALL),
}


@pytest.fixture(autouse=True)
def patch_models(monkeypatch):
    """Models with MAE's embedding of patches, such as "ostrack_patch"."""
    for name, config in PATCH.items():
        family = FAMILIES[name]
        models = {**family.models, f"{name}_patch": config}
        monkeypatch.setitem(FAMILIES, name, replace(family, models=models))


def mae_state() -> dict[str, torch.Tensor]:
    """Tensors as in MAE's checkpoints, drawn, with some of the decoder."""
    torch.manual_seed(4)
    block = {
        "norm1.weight": (WIDTH,),
        "norm1.bias": (WIDTH,),
        "attn.qkv.weight": (3 * WIDTH, WIDTH),
        "attn.qkv.bias": (3 * WIDTH,),
        "attn.proj.weight": (WIDTH, WIDTH),
        "attn.proj.bias": (WIDTH,),
        "norm2.weight": (WIDTH,),
        "norm2.bias": (WIDTH,),
        "mlp.fc1.weight": (HIDDEN, WIDTH),
        "mlp.fc1.bias": (HIDDEN,),
        "mlp.fc2.weight": (WIDTH, HIDDEN),
        "mlp.fc2.bias": (WIDTH,),
    }
    shapes = {
        "cls_token": (1, 1, WIDTH),
        "pos_embed": (1, 197, WIDTH),
        "patch_embed.proj.weight": (WIDTH, 3, 16, 16),
        "patch_embed.proj.bias": (WIDTH,),
        **{f"blocks.{i}.{key}": shape for i in range(DEPTH) for key, shape in block.items()},
        "norm.weight": (WIDTH,),
        "norm.bias": (WIDTH,),
        "mask_token": (1, 1, 8),
        "decoder_blocks.0.norm1.weight": (8,),
    }
    return {key: torch.randn(shape) * 0.05 for key, shape in shapes.items()}


@pytest.mark.parametrize("family", PATCH)
def test_a_converted_mae_checkpoint_starts_training(family, tmp_path):
    state = mae_state()
    torch.save({"model": state}, tmp_path / "mae_pretrain_vit_base.pth")
    out = tmp_path / "mae.safetensors"
    _, written = convert_checkpoint(tmp_path / "mae_pretrain_vit_base.pth", out)
    assert not [key for key in written if "decoder" in key or "mask_token" in key]

    recipe = replace(
        RECIPES["pairs"], model=f"{family}_patch", start_from=str(out), backbone_multiplier=0.1
    )
    task = open_task(recipe)
    own = task.network.state_dict()
    key = "blocks.1.attn.qkv.weight"
    assert torch.equal(own[f"backbone.{key}"], state[key])
    positions = resample_position_embedding(state["pos_embed"], 4)
    assert torch.equal(own["backbone.pos_embed_x"], positions)
    batch = PairBatch(
        torch.rand(2, 3, 32, 32),
        torch.full((2, 4), 0.25),
        torch.rand(2, 3, 64, 64),
        torch.full((2, 4), 0.3),
        torch.ones(2, dtype=torch.bool),
    )
    losses = task(batch, 0)
    losses["total"].backward()
    assert own[f"backbone.{key}"].shape == (3 * WIDTH, WIDTH)
    assert {group["scale"] for group in task.groups()} == {0.1, 1.0}


def test_the_models_that_mae_starts_are_named():
    with torch.device("meta"):
        whole = OSTrackNetwork(OSTRACK_VITB_256_CE).state_dict()
    left_out = ("backbone.pos_embed_z", "backbone.pos_embed_x")
    start = {k: v for k, v in whole.items() if k.startswith("backbone.") and k not in left_out}
    found = models_to_train_from(start)
    assert {"ostrack_vitb_256", "ostrack_vitb_384_ce", "grm_vitb_256"} <= set(found)
    assert "grm_vitl_320" not in found
    assert models_to_train_from(whole) == ()


def test_a_classifier_s_resnet_starts_trdimp(tmp_path):
    recipe = RECIPES["clips"]
    backbone = open_task(recipe).network.feature_extractor.state_dict()
    torch.manual_seed(9)
    state = {
        key: torch.rand_like(value) if value.is_floating_point() else value
        for key, value in backbone.items()
    }
    extra = {"fc.weight": torch.rand(10, 4), "layer4.0.conv1.weight": torch.rand(4, 4, 1, 1)}
    path = tmp_path / "resnet.safetensors"
    write_weights({**state, **extra}, path)
    task = open_task(replace(recipe, start_from=str(path)))
    for key, value in task.network.feature_extractor.state_dict().items():
        assert torch.equal(value, state[key]), key
    write_weights({**state, "conv7.weight": torch.rand(2)}, path)
    with pytest.raises(ValueError, match="conv7"):
        open_task(replace(recipe, start_from=str(path)))


def test_keep_rate_and_drop_path_follow_the_recipe():
    recipe = replace(
        RECIPES["pairs"],
        model="ostrack_patch",
        drop_path=0.2,
        ce_keep_ratio=0.5,
        ce_start_epoch=2,
        ce_warm_epochs=4,
        steps_per_epoch=10,
    )
    task = open_task(recipe)
    rates = [block.drop_path.rate for block in task.network.backbone.blocks if block.drop_path]
    assert max(rates) == pytest.approx(0.2)
    boxes = torch.full((2, 4), 0.25)
    kept = [task.training_arguments(boxes, step)["keep_rate"] for step in (0, 9, 30, 50, 500)]
    assert kept == pytest.approx([1.0, 1.0, 0.75, 0.5, 0.5])
    grm = open_task(replace(recipe, model="grm_patch"))
    assert grm.network.backbone.blocks[2].drop_path.rate == pytest.approx(0.2)

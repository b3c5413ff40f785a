import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mllmseg.config import VisionTowerConfig
from mllmseg.errors import AlignmentError, CheckpointError, ConfigError
from mllmseg.models.vision_tower import build_vision_tower, convert_dinov2_keys

TINY = VisionTowerConfig(
    hidden_size=16,
    patch_size=14,
    image_size=70,
    overrides={"num_hidden_layers": 2, "num_attention_heads": 2, "num_register_tokens": 3},
)


def original_dinov2(state: dict, pixels: torch.Tensor, num_heads: int) -> torch.Tensor:
    """DINOv2 with registers in plain torch, from the original repository's keys: normalised patch tokens."""
    size = state["patch_embed.proj.weight"].shape[-1]
    x = F.conv2d(pixels, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=size)
    grid = x.shape[-2:]
    x = x.flatten(2).transpose(1, 2)
    position = state["pos_embed"]
    side = int((position.shape[1] - 1) ** 0.5)
    patches = position[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    if tuple(grid) != (side, side):  # interpolate_antialias=True, interpolate_offset=0.0
        patches = F.interpolate(patches, size=tuple(grid), mode="bicubic", antialias=True)
    x = x + patches.flatten(2).transpose(1, 2)
    first = state["cls_token"] + position[:, :1]
    x = torch.cat([first.expand(len(x), -1, -1), state["register_tokens"].expand(len(x), -1, -1), x], 1)
    for index in range(1 + max(int(key.split(".")[1]) for key in state if key.startswith("blocks."))):
        block = {
            key.removeprefix(f"blocks.{index}."): value
            for key, value in state.items()
            if key.startswith(f"blocks.{index}.")
        }

        def linear(y, name, block=block):
            return F.linear(y, block[f"{name}.weight"], block[f"{name}.bias"])

        y = F.layer_norm(x, x.shape[-1:], block["norm1.weight"], block["norm1.bias"], 1e-6)
        qkv = linear(y, "attn.qkv").reshape(*y.shape[:2], 3, num_heads, -1).permute(2, 0, 3, 1, 4)
        scores = qkv[0] @ qkv[1].transpose(-1, -2) / qkv.shape[-1] ** 0.5
        y = (scores.softmax(-1) @ qkv[2]).transpose(1, 2).flatten(2)
        x = x + block["ls1.gamma"] * linear(y, "attn.proj")
        y = F.layer_norm(x, x.shape[-1:], block["norm2.weight"], block["norm2.bias"], 1e-6)
        x = x + block["ls2.gamma"] * linear(F.gelu(linear(y, "mlp.fc1")), "mlp.fc2")
    x = F.layer_norm(x, x.shape[-1:], state["norm.weight"], state["norm.bias"], 1e-6)
    skip = 1 + state["register_tokens"].shape[1]
    return x[:, skip:].transpose(1, 2).unflatten(2, tuple(grid))


def random_original_state(*, hidden=16, depth=2, registers=3, side=5, patch=14) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "cls_token": (1, 1, hidden),
        "pos_embed": (1, side * side + 1, hidden),
        "register_tokens": (1, registers, hidden),
        "mask_token": (1, hidden),
        "patch_embed.proj.weight": (hidden, 3, patch, patch),
        "patch_embed.proj.bias": (hidden,),
        "norm.weight": (hidden,),
        "norm.bias": (hidden,),
    }
    for index in range(depth):
        for name, shape in {
            "norm1.weight": (hidden,),
            "norm1.bias": (hidden,),
            "attn.qkv.weight": (3 * hidden, hidden),
            "attn.qkv.bias": (3 * hidden,),
            "attn.proj.weight": (hidden, hidden),
            "attn.proj.bias": (hidden,),
            "ls1.gamma": (hidden,),
            "norm2.weight": (hidden,),
            "norm2.bias": (hidden,),
            "mlp.fc1.weight": (4 * hidden, hidden),
            "mlp.fc1.bias": (4 * hidden,),
            "mlp.fc2.weight": (hidden, 4 * hidden),
            "mlp.fc2.bias": (hidden,),
            "ls2.gamma": (hidden,),
        }.items():
            shapes[f"blocks.{index}.{name}"] = shape
    return {name: torch.randn(shape, generator=generator) * 0.3 for name, shape in shapes.items()}


def test_key_names_of_earlier_transformers():
    state = random_original_state(depth=1)
    converted = convert_dinov2_keys(state, separate=False)
    value = converted["encoder.layer.0.attention.attention.value.weight"]
    assert torch.equal(value, state["blocks.0.attn.qkv.weight"][32:])
    assert "encoder.layer.0.attention.output.dense.bias" in converted
    assert len(converted) == len(state) + 4  # each of the fused weight and bias becomes three


@pytest.fixture
def original(tmp_path):
    state = random_original_state()
    torch.save(state, tmp_path / "tiny.pt")
    return state, tmp_path / "tiny.pt"


@pytest.mark.parametrize("grid", [(5, 5), (1, 1), (3, 7), (9, 4), (1, 25)])
def test_equals_an_independent_forward(original, grid):
    state, path = original
    pixels = torch.randn(2, 3, 14 * grid[0], 14 * grid[1], generator=torch.Generator().manual_seed(1))
    features = build_vision_tower(TINY, path).encode(tower_pixels=pixels)
    assert features.shape == (2, 16, *grid)
    # Two orders of summation in float32; measured 2e-6.
    torch.testing.assert_close(features, original_dinov2(state, pixels, num_heads=2), atol=2e-5, rtol=1e-4)


def test_random_weights_and_saved_folder(tmp_path):
    tower = build_vision_tower(TINY, None)
    tower.model.save_pretrained(tmp_path / "folder")
    again = build_vision_tower(TINY, str(tmp_path / "folder"))
    pixels = torch.randn(1, 3, 28, 42)
    torch.testing.assert_close(again.encode(pixels), tower.encode(pixels))


def test_a_folder_that_lacks_weights_is_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    build_vision_tower(TINY, None).model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    state = load_file(file)
    save_file({key: value for key, value in state.items() if "layer.1.mlp" not in key}, file, {"format": "pt"})
    with pytest.raises(CheckpointError, match="missing"):
        build_vision_tower(TINY, tmp_path)


def test_frozen_whatever_its_parent_does():
    tower = build_vision_tower(TINY, None)
    torch.nn.Sequential(tower).train()
    assert not any(module.training for module in tower.modules())
    assert not any(parameter.requires_grad for parameter in tower.parameters())
    assert not tower.encode(torch.randn(1, 3, 14, 14, requires_grad=True)).requires_grad


def test_dtype(original):
    tower = build_vision_tower(TINY, original[1], dtype=torch.bfloat16)
    assert tower.encode(torch.randn(1, 3, 28, 28)).dtype == torch.bfloat16


def test_wrong_files_are_refused(original, tmp_path):
    state, path = original
    with pytest.raises(CheckpointError, match="no such"):
        build_vision_tower(TINY, tmp_path / "absent.pt")
    (tmp_path / "text.pt").write_text("no weights")
    with pytest.raises(CheckpointError, match="fetch it again"):
        build_vision_tower(TINY, tmp_path / "text.pt")
    torch.save({key: value for key, value in state.items() if key != "register_tokens"}, path)
    with pytest.raises(CheckpointError, match="register_tokens"):
        build_vision_tower(TINY, path)
    torch.save({key: value for key, value in state.items() if key != "blocks.1.ls2.gamma"}, path)
    with pytest.raises(CheckpointError, match="layer_scale2"):
        build_vision_tower(TINY, path)
    with pytest.raises(CheckpointError, match="neither"):
        build_vision_tower(TINY, str(tmp_path / "empty"))


def test_settings_that_contradict_the_checkpoint_are_refused(original):
    with pytest.raises(ConfigError, match="hidden_size 24"):
        build_vision_tower(TINY.model_copy(update={"hidden_size": 24}), original[1])


def test_broken_patches_are_refused():
    with pytest.raises(AlignmentError, match="30x28"):
        build_vision_tower(TINY, None).encode(torch.zeros(1, 3, 30, 28))


@pytest.mark.parametrize(
    ("input_size", "grid"), [((1024, 1024), (64, 64)), ((683, 1024), (43, 64)), ((1024, 1), (64, 1))]
)
def test_sam_tower_crops_to_the_valid_window(input_size, grid):
    tower = build_vision_tower(VisionTowerConfig(name="sam", checkpoint=None))
    embeddings = torch.randn(2, 256, 64, 64)
    features = tower.encode(torch.zeros(2, 3, 16, 16), image_embeddings=embeddings, input_size=input_size)
    assert torch.equal(features, embeddings[..., : grid[0], : grid[1]])
    assert (tower.hidden_size, tower.patch_size, tower.needs_pixels) == (256, 16, False)
    with pytest.raises(AlignmentError, match="image_embeddings"):
        tower.encode(torch.zeros(2, 3, 16, 16))


@pytest.fixture(scope="module")
def real_checkpoint():
    from mllmseg.weights import fetch

    return fetch("dinov2s")


@pytest.mark.weights
def test_real_weights_equal_an_independent_forward(real_checkpoint):
    tower = build_vision_tower(VisionTowerConfig(), real_checkpoint)
    state = torch.load(real_checkpoint, map_location="cpu", weights_only=True)
    pixels = torch.randn(1, 3, 70, 112, generator=torch.Generator().manual_seed(0))
    expected = original_dinov2(state, pixels, num_heads=6)
    torch.testing.assert_close(tower.encode(pixels), expected, atol=2e-3, rtol=1e-3)


@pytest.mark.weights
def test_real_weights_know_a_cat_from_a_table(real_checkpoint):
    from skimage import data

    from mllmseg.data.transforms import load_image, preprocess

    tower = build_vision_tower(VisionTowerConfig(), real_checkpoint)

    def region(photo: np.ndarray, box: tuple[float, float, float, float]) -> torch.Tensor:
        pixels = preprocess(load_image(photo), tower_size=280).tower_pixels[None]
        features = tower.encode(pixels)[0]
        (_, height, width), (x0, y0, x1, y1) = features.shape, box
        window = features[:, int(y0 * height) : int(y1 * height), int(x0 * width) : int(x1 * width)]
        return F.normalize(window.mean((1, 2)), dim=0)

    cat = region(data.chelsea(), (0.25, 0.15, 0.75, 0.75))
    mirrored = region(data.chelsea()[:, ::-1], (0.25, 0.15, 0.75, 0.75))
    table = region(data.coffee(), (0.0, 0.0, 0.25, 0.4))
    cup = region(data.coffee(), (0.35, 0.25, 0.75, 0.65))
    face = region(data.astronaut(), (0.35, 0.05, 0.55, 0.35))
    assert cat @ mirrored > 0.9
    assert max(cat @ table, cat @ cup, cat @ face, cup @ face) < 0.5

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mllmseg.config import ProjectorConfig
from mllmseg.errors import ConfigError
from mllmseg.models.pooling import patch_weights, pool_superpixels
from mllmseg.models.projector import PROJECTORS, SuperpixelAggregator, build_projector
from mllmseg.structures import Superpixels

CHANNELS, WIDTH = 12, 20
TRANSLATING = [name for name in PROJECTORS if name != "pooled"]


def partition(num_superpixels: int, height: int = 24, width: int = 32) -> Superpixels:
    """Vertical stripes."""
    labels = (torch.arange(width) * num_superpixels // width).expand(height, width).contiguous()
    starts = torch.tensor([(labels[0] == label).nonzero()[0, 0] for label in range(num_superpixels)])
    stops = torch.cat([starts[1:], torch.tensor([width])])
    zeros = torch.zeros_like(starts)
    boxes = torch.stack([starts, zeros, stops, zeros + height], 1)
    return Superpixels(labels, boxes, labels.flatten().bincount(), torch.zeros(num_superpixels))


def make(name: str, **settings_) -> torch.nn.Module:
    torch.manual_seed(0)
    config = ProjectorConfig(**{"name": name, "hidden_size": 32, "num_heads": 4, "num_tokens": 9, **settings_})
    return build_projector(config, in_channels=channels(name), out_channels=WIDTH, token_norm=3.0)


def channels(name: str) -> int:
    """`pooled` takes what is in the language model's space already."""
    return WIDTH if name == "pooled" else CHANNELS


def expected_tokens(name, grid, num_superpixels):
    return {"semantic": num_superpixels, "pooled": num_superpixels, "mlp": grid[0] * grid[1]}.get(name, 9)


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 7), st.integers(1, 7), st.integers(1, 8))
@pytest.mark.parametrize("name", list(PROJECTORS))
def test_any_grid_and_any_number_of_superpixels(name, height, width, num_superpixels):
    visual = make(name)(torch.randn(channels(name), height, width), partition(num_superpixels))
    num_tokens = expected_tokens(name, (height, width), num_superpixels)
    assert visual.tokens.shape == (num_tokens, WIDTH)
    assert visual.assignment.shape == (num_superpixels, num_tokens)
    assert visual.tokens.isfinite().all()
    assert (visual.assignment >= 0).all()
    torch.testing.assert_close(visual.assignment.sum(1), torch.ones(num_superpixels))


@pytest.mark.parametrize("name", TRANSLATING)
def test_tokens_start_as_long_as_word_embeddings(name):
    tokens = make(name)(torch.randn(CHANNELS, 5, 6) * 7, partition(4)).tokens
    torch.testing.assert_close(tokens.norm(dim=1), torch.full((len(tokens),), 3.0), rtol=0.02, atol=0)


@pytest.mark.parametrize("name", TRANSLATING)
@pytest.mark.parametrize(("sspe", "ssa"), [(True, True), (False, True), (True, False), (False, False)])
def test_every_parameter_learns(name, sspe, ssa):
    projector = make(name, sspe=sspe, ssa=ssa)
    features = torch.randn(CHANNELS, 5, 6, requires_grad=True)
    tokens = projector(features, partition(4)).tokens
    (tokens * torch.randn_like(tokens)).sum().backward()
    # A key's bias shifts all logits of a query alike, which softmax ignores.
    idle = [key for key, p in projector.named_parameters() if not key.endswith("key.bias") and not (p.grad != 0).any()]
    assert idle == []
    assert features.grad.isfinite().all()
    assert (features.grad != 0).any()


def test_pooled_starts_with_the_average_and_learns_the_position():
    projector, features = make("pooled"), torch.randn(WIDTH, 5, 6)
    tokens = projector(features, partition(4)).tokens
    torch.testing.assert_close(tokens, pool_superpixels(features, partition(4)))
    (tokens * torch.randn_like(tokens)).sum().backward()
    assert all((item.grad != 0).any() for item in projector.sspe.layers[-1].parameters())


def test_sspe_and_ssa_switch_their_modules():
    bare = make("semantic", sspe=False, ssa=False)
    assert bare.sspe is None
    assert bare.ssa is None
    # Without positions, stripes of equal features are indistinguishable; with them they are not.
    features, superpixels = torch.ones(CHANNELS, 4, 8) * torch.randn(CHANNELS, 1, 1), partition(4)
    for projector in (bare, make("semantic", sspe=False)):
        tokens = projector(features, superpixels).tokens
        torch.testing.assert_close(tokens, tokens[:1].expand_as(tokens), atol=1e-4, rtol=1e-4)
    tokens = make("semantic")(features, superpixels).tokens
    assert torch.cdist(tokens, tokens).fill_diagonal_(9).min() > 0.01


def test_semantic_tokens_follow_their_superpixels():
    projector, superpixels, features = make("semantic").eval(), partition(5), torch.randn(CHANNELS, 6, 8)
    order = torch.tensor([3, 1, 4, 0, 2])
    permuted = Superpixels(
        order.argsort()[superpixels.label_map],
        superpixels.boxes[order],
        superpixels.areas[order],
        superpixels.scores[order],
    )
    expected = projector(features, superpixels).tokens[order]
    torch.testing.assert_close(projector(features, permuted).tokens, expected, atol=1e-5, rtol=1e-4)


def aggregator() -> SuperpixelAggregator:
    torch.manual_seed(0)
    return SuperpixelAggregator(16, CHANNELS, 2, use_position=False)


def test_aggregator_looks_inside_only_with_its_first_half():
    module, weights = aggregator(), patch_weights(partition(4), (3, 4))
    torch.nn.init.zeros_(module.output.weight[:, 16:])  # silence the context
    hidden, patches = torch.randn(4, 16), torch.randn(12, CHANNELS)
    before = module(hidden, patches, weights, (3, 4))
    patches[weights[0] > 0] += 1
    after = module(hidden, patches, weights, (3, 4))
    changed = (before - after).abs().amax(1) > 1e-5
    assert changed.tolist() == [True, False, False, False]


def test_indifferent_aggregator_is_the_area_weighted_average():
    module, weights = aggregator(), patch_weights(partition(3), (5, 7))
    for layer in (module.query, module.key):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    hidden, patches = torch.randn(3, 16), torch.randn(35, CHANNELS)
    values = module.value(patches)
    averages = torch.cat([weights @ values, values.mean(0).expand(3, -1)], 1)
    expected = module.output(averages)
    torch.testing.assert_close(module(hidden, patches, weights, (5, 7)), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", TRANSLATING)
def test_half_precision(name):
    projector = make(name).to(torch.bfloat16)
    visual = projector(torch.randn(CHANNELS, 5, 6), partition(4))
    assert visual.tokens.dtype == torch.bfloat16
    assert visual.tokens.isfinite().all()
    assert torch.isfinite(make(name)(torch.randn(CHANNELS, 5, 6, dtype=torch.bfloat16), partition(4)).tokens).all()


def test_default_size_is_about_two_million_parameters():
    projector = build_projector(ProjectorConfig(), in_channels=384, out_channels=576, token_norm=1.0)
    assert 1.5e6 < sum(parameter.numel() for parameter in projector.parameters()) < 3e6


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"name": "average", "num_tokens": 8}, "no square"),
        ({"name": "average", "num_tokens": 0}, "no square"),
        ({"name": "resampler", "num_tokens": 0}, "at least 1"),
        ({"name": "semantic", "num_heads": 5}, "does not divide"),
    ],
)
def test_senseless_settings_are_refused(settings_, message):
    with pytest.raises(ConfigError, match=message):
        make(**settings_)

import pytest
import torch
from PIL import Image

from mllmseg.inference.scene import Scene
from mllmseg.inference.scene_cache import SceneCache
from mllmseg.models.head import Regions
from mllmseg.structures import ImageFeatures, Superpixels, VisualTokens


def scene(side: int) -> Scene:
    """Takes 3 * side² bytes of pixels and a little more."""
    empty = torch.zeros(0)
    superpixels = Superpixels(torch.zeros(1, 1, dtype=torch.int64), empty, empty, empty)
    features = ImageFeatures(empty, superpixels, empty, (side, side), (side, side))
    regions = Regions(empty, empty, empty)
    return Scene(Image.new("RGB", (side, side)), features, VisualTokens(empty, empty), regions, None, 0, {})


def test_what_is_used_last_stays() -> None:
    cache = SceneCache(3 * 100**2 * 2 + 1000)
    first, second, third = scene(100), scene(100), scene(100)
    cache.put(b"1", first)
    cache.put(b"2", second)
    assert cache.get(b"1") is first
    cache.put(b"3", third)
    assert cache.get(b"2") is None
    assert cache.get(b"1") is first
    assert cache.get(b"3") is third
    assert 3 * 100**2 * 2 <= cache.num_bytes <= cache.max_bytes


def test_what_is_larger_than_the_limit_displaces_nothing() -> None:
    cache = SceneCache(3 * 100**2 + 1000)
    kept = scene(100)
    cache.put(b"1", kept)
    cache.put(b"2", scene(200))
    assert len(cache) == 1
    assert cache.get(b"1") is kept


def test_nothing_is_kept_where_nothing_is_allowed() -> None:
    cache = SceneCache(0)
    assert cache.key(Image.new("RGB", (2, 2))) is None
    cache.put(cache.key(Image.new("RGB", (2, 2))), scene(2))
    assert len(cache) == 0


@pytest.mark.parametrize(("size", "colour"), [((4, 2), "black"), ((8, 1), "black"), ((2, 4), "#000001")])
def test_another_image_has_another_key(size: tuple[int, int], colour: str) -> None:
    other = Image.new("RGB", size, colour)
    cache = SceneCache(1)
    image = Image.new("RGB", (2, 4))
    assert cache.key(image) == cache.key(image.copy())
    assert cache.key(image) != cache.key(other)

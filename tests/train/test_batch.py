"""Mirroring, targets and the names of superpixels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mllmseg.data.datasets.coco_mini import Instance, Photo
from mllmseg.data.training import Sample
from mllmseg.models.partition import to_superpixels
from mllmseg.models.pooling import pool_superpixels, superpixel_geometry
from mllmseg.structures import ImageFeatures
from mllmseg.train.batch import SuperpixelLabels, mirror, sample_targets, superpixel_labels, unnamed


@pytest.fixture
def features(make_features: Callable[..., ImageFeatures]) -> ImageFeatures:
    """Four regions of different sizes at different places, in a narrow image: 192 of 256 columns are valid."""
    labels = np.zeros((256, 192), dtype=np.int64)
    labels[:, 150:] = 1
    labels[10:60, 20:40] = 2
    labels[200:240, 30:170] = 3
    superpixels = to_superpixels(labels, np.ones(4, dtype=np.float32))
    patches = torch.randn(16, 8, 6, generator=torch.Generator().manual_seed(5))
    return replace(
        make_features(2),
        superpixels=superpixels,
        patch_features=patches,
        input_size=(1024, 768),
        original_size=(64, 48),
    )


def test_twice_mirrored_is_as_before(features: ImageFeatures) -> None:
    again = mirror(mirror(features))
    assert again.image_embeddings is not None
    assert features.image_embeddings is not None
    assert again.image_embeddings.equal(features.image_embeddings)
    assert again.patch_features.equal(features.patch_features)
    for name in ("label_map", "boxes", "areas", "scores"):
        assert getattr(again.superpixels, name).equal(getattr(features.superpixels, name))
    assert (again.input_size, again.original_size) == (features.input_size, features.original_size)


def test_mirrored_superpixels_are_those_of_the_mirrored_map(features: ImageFeatures) -> None:
    """Region for region: the order stays, boxes fit the map."""
    mirrored = mirror(features).superpixels
    assert mirrored.label_map.equal(features.superpixels.label_map.flip(1))
    for index, (x0, y0, x1, y1) in enumerate(mirrored.boxes.tolist()):
        ys, xs = (mirrored.label_map == index).nonzero().unbind(1)
        assert (x0, y0, x1, y1) == (int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1)
    assert mirrored.boxes.dtype == features.superpixels.boxes.dtype


def test_a_region_keeps_its_features_and_mirrors_its_place(features: ImageFeatures) -> None:
    other = mirror(features)
    before = pool_superpixels(features.patch_features, features.superpixels)
    # Label pixels are counted per patch; both grids are symmetric, so only the order of the sum changes.
    torch.testing.assert_close(pool_superpixels(other.patch_features, other.superpixels), before, atol=1e-5, rtol=0)
    x, y = superpixel_geometry(features.superpixels)[:, :2].unbind(1)
    mirrored_x, mirrored_y = superpixel_geometry(other.superpixels)[:, :2].unbind(1)
    torch.testing.assert_close(mirrored_x, -x, atol=1e-5, rtol=0)
    torch.testing.assert_close(mirrored_y, y)


def test_embeddings_are_mirrored_within_the_valid_window(features: ImageFeatures) -> None:
    mirrored = mirror(features).image_embeddings
    assert mirrored is not None
    assert features.image_embeddings is not None
    assert mirrored[..., :48].equal(features.image_embeddings[..., :48].flip(-1))
    assert mirrored[..., 48:].equal(features.image_embeddings[..., 48:]), "padding stays where it is"
    assert mirror(replace(features, image_embeddings=None)).image_embeddings is None


def masks_of(*boxes: tuple[int, int, int, int]) -> dict[int, Tensor]:
    masks = {}
    for ident, (x0, y0, x1, y1) in enumerate(boxes, start=5):
        masks[ident] = torch.zeros(256, 192, dtype=torch.bool)
        masks[ident][y0:y1, x0:x1] = True
    return masks


def test_targets_are_those_of_the_sample() -> None:
    masks = torch.stack(list(masks_of((0, 0, 10, 20), (30, 0, 40, 20)).values()))
    found = sample_targets(Sample((), masks, (True, False, True)))
    assert found.masks.equal(masks)
    assert found.exists.tolist() == [True, False, True]


def test_a_sample_without_targets() -> None:
    found = sample_targets(Sample((), torch.zeros(0, 256, 192, dtype=torch.bool), ()))
    assert found.masks.dtype == found.exists.dtype == torch.bool
    assert found.exists.shape == (0,)


def test_an_image_without_labels_has_no_names(features: ImageFeatures) -> None:
    found = unnamed(features.superpixels, 3)
    assert found.names.shape == found.open.shape == (4, 3)
    assert found.open.all()
    assert not found.told.any()


NAMES = ("cat", "hat", "dog", "person")
ALL_OPEN = "(cat hat dog person)"


@pytest.fixture
def columns(features: ImageFeatures) -> ImageFeatures:
    """Four regions, each a column 48 pixels wide: 12 of the photo's."""
    labels = np.repeat(np.arange(4), 48)[None].repeat(256, axis=0)
    return replace(features, superpixels=to_superpixels(labels, np.ones(4, dtype=np.float32)))


def labels_of(
    features: ImageFeatures, masks: dict[int, Tensor], **instances: tuple[int, float, float, float, float]
) -> SuperpixelLabels:
    """Labels of a 64 x 48 photo; instances: category → (id, x, y, width, height)."""
    things = tuple(
        Instance(ident, category, (x, y, width, height), "human", [], False, width * height)
        for category, (ident, x, y, width, height) in instances.items()
    )
    scope = frozenset({"dog", "cat"} | ({"person"} & instances.keys()))
    photo = Photo(1, Path("1.jpg"), (64, 48), scope, "coco80", things)
    return superpixel_labels(photo, masks, features.superpixels, {name: n for n, name in enumerate(NAMES)}, len(NAMES))


def told(found: SuperpixelLabels) -> list[str]:
    """Per superpixel the names it bears, then those left open, in brackets."""
    lines = []
    for names, left in zip(found.names.tolist(), found.open.tolist(), strict=True):
        borne, rest = ([name for name, mark in zip(NAMES, marks, strict=True) if mark] for marks in (names, left))
        lines.append(" ".join(borne + ["(" + " ".join(rest) + ")"] * bool(rest)))
    return lines


def test_superpixels_bear_the_name_of_what_covers_them(columns: ImageFeatures) -> None:
    masks = masks_of((0, 0, 76, 256), (76, 0, 144, 256))
    found = labels_of(columns, masks, dog=(5, 0, 0, 19, 64), cat=(6, 19, 0, 17, 64))
    assert told(found) == ["dog", ALL_OPEN, "cat", "(hat person)"], "the second is more than half dog, but not enough"
    assert found.told.tolist() == [True, False, True, True]
    assert found.named.tolist() == [True, False, True, False]


def test_what_may_hide_in_a_box_without_a_mask_is_unknown(columns: ImageFeatures) -> None:
    masks = masks_of((0, 0, 48, 256))
    found = labels_of(columns, masks, dog=(5, 0, 0, 12, 64), cat=(9, 36, 0, 12, 32))
    assert told(found) == ["dog", "(hat person)", "(hat person)", ALL_OPEN]


def test_a_category_without_a_name_is_unknown(columns: ImageFeatures) -> None:
    found = labels_of(columns, masks_of((0, 0, 48, 256)), spoon=(5, 0, 0, 12, 64))
    assert told(found) == [ALL_OPEN, *["(hat person)"] * 3]


def test_a_photo_without_labels_shows_nothing_of_its_scope(columns: ImageFeatures) -> None:
    assert told(labels_of(columns, {})) == ["(hat person)"] * 4


def test_what_lies_on_one_another_shares_a_superpixel(columns: ImageFeatures) -> None:
    masks = masks_of((0, 0, 144, 256), (48, 0, 96, 256))
    found = labels_of(columns, masks, dog=(5, 0, 0, 36, 64), cat=(6, 12, 0, 12, 64))
    assert told(found) == ["dog", "cat dog", "dog", "(hat person)"]


def test_what_somebody_wears_is_open_where_only_people_were_labelled(columns: ImageFeatures) -> None:
    found = labels_of(columns, masks_of((0, 0, 96, 256)), person=(5, 0, 0, 24, 64))
    assert told(found) == ["person (hat)", "person (hat)", "(hat)", "(hat)"]

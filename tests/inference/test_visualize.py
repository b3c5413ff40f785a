"""Drawings checked pixel by pixel on small made-up pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from mllmseg.errors import AlignmentError
from mllmseg.inference import visualize
from mllmseg.structures import Segmentation, Superpixels

GREY = Image.new("RGB", (60, 40), (100, 100, 100))


def square(top: int, left: int, side: int) -> torch.Tensor:
    mask = torch.zeros(40, 60, dtype=torch.bool)
    mask[top : top + side, left : left + side] = True
    return mask


def quarters() -> Superpixels:
    """Four regions on a 10 x 20 label map, for any image of the same aspect or near it."""
    label_map = torch.zeros(10, 20, dtype=torch.int64)
    label_map[:, 10:] += 1
    label_map[5:] += 2
    return Superpixels(label_map, torch.zeros(4, 4), torch.full((4,), 50), torch.ones(4))


def segmentation(query: str, masks: torch.Tensor, scores: torch.Tensor) -> Segmentation:
    return Segmentation(
        query=query, answer="", exists=len(masks) > 0, score=0.5, masks=masks, boxes=torch.zeros(len(masks), 4),
        mask_scores=torch.zeros(len(masks)), superpixels=quarters(), superpixel_scores=scores, num_visual_tokens=4,
    )  # fmt: skip


def test_overlay_fills_outlines_and_leaves_the_rest() -> None:
    drawn = np.array(visualize.overlay(GREY, torch.stack([square(5, 5, 20), square(8, 35, 20)])))
    assert drawn.shape == (40, 60, 3)
    first, second = visualize.color(0), visualize.color(1)
    assert tuple(drawn[5, 15]) == first  # contour
    assert tuple(drawn[4, 15]) == (255, 255, 255)  # its white rim
    expected = [int(100 * (1 - visualize.FILL) + value * visualize.FILL) for value in first]
    assert np.abs(drawn[15, 15].astype(int) - expected).max() <= 1
    assert tuple(drawn[8, 45]) == second
    assert tuple(drawn[35, 10]) == (100, 100, 100)


def test_a_mask_cut_off_by_the_image_has_no_contour_there() -> None:
    drawn = np.array(visualize.overlay(GREY, torch.ones(1, 40, 60, dtype=torch.bool)))
    assert len(np.unique(drawn.reshape(-1, 3), axis=0)) == 1


@pytest.mark.parametrize("kind", ["none", "empty"])
def test_nothing_to_draw_draws_nothing(kind: str) -> None:
    masks = torch.zeros(0 if kind == "none" else 2, 40, 60, dtype=torch.bool)
    labels = ["a"] * len(masks)
    assert np.array_equal(np.array(visualize.overlay(GREY, masks, labels=labels)), np.array(GREY))


def test_the_image_itself_is_not_drawn_on() -> None:
    image = GREY.copy()
    visualize.overlay(image, square(5, 5, 9)[None].numpy(), labels=["x"])
    visualize.superpixel_overlay(image, quarters(), numbered=True)
    assert np.array_equal(np.array(image), np.array(GREY))


def test_equal_labels_share_a_colour() -> None:
    masks = torch.stack([square(20, 2, 9), square(20, 20, 9), square(20, 40, 9)])
    drawn = np.array(visualize.overlay(GREY, masks, labels=["a", "a", "b"]))
    colors = [tuple(drawn[28, left + 4]) for left in (2, 20, 40)]
    assert colors == [visualize.color(0), visualize.color(0), visualize.color(1)]


@pytest.mark.parametrize("label", ["x", "a long label, wider than the picture by far", "Löffel – ложка", " "])
def test_labels_of_any_text_fit_at_any_edge(label: str) -> None:
    masks = torch.stack([square(0, 0, 4), square(0, 56, 4), square(36, 56, 4)])
    assert visualize.overlay(GREY, masks, labels=[label, label + "2", label + "3"]).size == GREY.size


def test_colours_stay_apart() -> None:
    colors = [visualize.color(index) for index in range(24)]
    assert len(set(colors)) == 24
    assert all(0 <= value <= 255 for one in colors for value in one)


def test_masks_must_fit_the_image() -> None:
    with pytest.raises(AlignmentError, match="40 x 60"):
        visualize.overlay(GREY, torch.ones(1, 60, 40, dtype=torch.bool))
    with pytest.raises(AlignmentError, match="2 labels for 1 masks"):
        visualize.overlay(GREY, square(0, 0, 4)[None], labels=["a", "b"])
    with pytest.raises(AlignmentError, match="3 scores for 4 superpixels"):
        visualize.superpixel_overlay(GREY, quarters(), scores=torch.ones(3))


def test_superpixels_show_their_borders() -> None:
    drawn = np.array(visualize.superpixel_overlay(GREY, quarters()))
    assert tuple(drawn[10, 30]) == (255, 255, 255)  # between left and right
    assert tuple(drawn[20, 10]) == (255, 255, 255)  # between above and below
    assert tuple(drawn[10, 10]) == (100, 100, 100)
    assert not np.array_equal(drawn, np.array(visualize.superpixel_overlay(GREY, quarters(), numbered=True)))


def test_one_superpixel_for_all_is_numbered_in_the_middle() -> None:
    one = Superpixels(torch.zeros(4, 6, dtype=torch.int64), torch.zeros(1, 4), torch.tensor([24]), torch.ones(1))
    drawn = np.array(visualize.superpixel_overlay(GREY, one, numbered=True))
    rows, columns = (drawn != 100).any(-1).nonzero()
    assert rows.min() > 10
    assert rows.max() < 30
    assert columns.min() > 20
    assert columns.max() < 40


def test_chosen_superpixels_are_lit_and_others_dimmed() -> None:
    drawn = np.array(visualize.superpixel_overlay(GREY, quarters(), scores=torch.tensor([0.1, 0.9, 0.2, 0.5])))
    assert tuple(drawn[10, 45]) == tuple(drawn[30, 45]) == (100, 100, 100)
    assert tuple(drawn[10, 10]) == tuple(drawn[30, 10]) == (35, 35, 35)
    assert tuple(drawn[10, 30]) == visualize.CHOSEN


def test_several_queries_in_one_picture() -> None:
    found = [
        segmentation("a", square(20, 2, 9)[None], torch.tensor([[0.9, 0.1, 0.1, 0.1]])),
        segmentation("unicorn", torch.zeros(0, 40, 60, dtype=torch.bool), torch.zeros(0, 4)),
        segmentation("b", square(20, 40, 9)[None], torch.tensor([[0.1, 0.1, 0.1, 0.9]])),
    ]
    drawn = np.array(visualize.overlay_all(GREY, found))
    assert tuple(drawn[28, 6]) == visualize.color(0)
    assert tuple(drawn[28, 44]) == visualize.color(1)
    chosen = np.array(visualize.chosen_superpixels(GREY, found))
    assert tuple(chosen[3, 3]) == (100, 100, 100)
    assert tuple(chosen[3, 50]) == (35, 35, 35)
    nothing = np.array(visualize.chosen_superpixels(GREY, found[1:2]))
    assert tuple(nothing[3, 3]) == (35, 35, 35)


def test_mask_images_are_unions() -> None:
    image = visualize.mask_image(torch.stack([square(0, 0, 5), square(30, 50, 5)]))
    assert image.mode == "L"
    assert image.size == (60, 40)
    assert set(np.unique(np.array(image))) == {0, 255}
    assert (np.array(image) == 255).sum() == 50
    assert not np.array(visualize.mask_image(torch.zeros(0, 40, 60, dtype=torch.bool))).any()
    assert np.array(visualize.mask_image(square(0, 0, 5))).sum() == 25 * 255


def test_side_by_side_scales_to_the_lowest() -> None:
    row = visualize.side_by_side([GREY, GREY.resize((120, 80)), Image.new("L", (20, 40))], gap=4)
    assert row.size == (60 + 4 + 60 + 4 + 20, 40)
    assert row.getpixel((61, 5)) == (255, 255, 255)

"""Points on small masks are covered at once, those on large ones when others there have had nothing new to say."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mllmseg.models.coverage import Coverage, describe

SIZE = (20, 20)  # low-res pixels, four SAM input pixels each


class Seen:
    """Coverage of a grid that consists of the points added and, after them, those asked for."""

    def __init__(self, **changes: Any) -> None:
        self.settings: dict[str, Any] = {"max_fraction": 0.1, "max_barren": 2, "coarse_points": 0, **changes}
        self.steps: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, points: Tensor, masks: Tensor, owners: Tensor) -> None:
        self.steps.append((points, masks, owners))

    def covers(self, asked: Tensor) -> Tensor:
        grid = torch.cat([*(points for points, _, _ in self.steps), asked])
        seen, first, before = Coverage(len(grid), **self.settings), 0, torch.zeros(0, *SIZE, dtype=torch.bool)
        for points, masks, owners in self.steps:
            before = torch.cat([before, masks])
            facts = describe(masks, before, grid, same_iou=0.7)
            seen.add(first + np.arange(len(points)), first + owners.numpy(), facts)
            first += len(points)
        return torch.from_numpy(seen.covers()[first:])


def box(y0: int, x0: int, y1: int, x1: int) -> Tensor:
    mask = torch.zeros(SIZE, dtype=torch.bool)
    mask[y0:y1, x0:x1] = True
    return mask


def at(*pixels: tuple[int, int]) -> Tensor:
    """SAM input points (x, y) in the middle of low-res pixels (row, column)."""
    return torch.tensor([[4.0 * column + 2, 4.0 * row + 2] for row, column in pixels])


SMALL, LARGE, EVERYTHING = box(0, 0, 6, 6), box(0, 0, 20, 10), at((3, 3), (15, 5), (5, 15))


def add(seen: Seen, point: tuple[int, int], *masks: Tensor) -> None:
    found = torch.stack([SMALL, *masks])[1:]
    seen.add(at(point), found, torch.zeros(len(found), dtype=torch.int64))


def test_a_small_mask_covers_at_once_and_a_large_one_does_not() -> None:
    seen = Seen()
    add(seen, (3, 3), SMALL, LARGE)
    assert seen.covers(EVERYTHING).tolist() == [True, False, False]


def test_a_large_mask_covers_when_enough_points_on_it_gave_nothing_new() -> None:
    seen = Seen()
    add(seen, (3, 3), SMALL, LARGE)
    add(seen, (17, 5), LARGE)
    assert seen.covers(EVERYTHING).tolist() == [True, False, False]
    add(seen, (17, 2))  # no mask at all is nothing new, either
    assert seen.covers(EVERYTHING).tolist() == [True, True, False]


def test_points_elsewhere_and_points_with_news_do_not_count() -> None:
    seen = Seen()
    add(seen, (3, 3), LARGE)
    for column in (12, 13, 14):
        add(seen, (3, column))
    add(seen, (10, 5), LARGE, box(9, 4, 12, 7))
    add(seen, (15, 5), LARGE, box(14, 4, 17, 7))
    assert seen.covers(at((18, 1))).tolist() == [False]


def test_points_of_a_batch_know_those_before_them() -> None:
    together, apart = Seen(), Seen()
    points, masks = [(3, 3), (17, 5), (17, 2)], [LARGE, LARGE, LARGE]
    together.add(at(*points), torch.stack(masks), torch.arange(3))
    for point, mask in zip(points, masks, strict=True):
        add(apart, point, mask)
    assert together.covers(EVERYTHING).tolist() == apart.covers(EVERYTHING).tolist() == [True, True, False]


def test_never_given_up() -> None:
    seen = Seen(max_barren=None)
    for column in range(8):
        add(seen, (3, column), LARGE)
    assert not seen.covers(EVERYTHING).any()


def test_points_on_the_edge_belong_to_the_last_pixel() -> None:
    seen = Seen()
    add(seen, (19, 19), box(17, 17, 20, 20))
    assert seen.covers(torch.tensor([[80.0, 80.0], [79.9, 79.9]])).all()


def test_the_coarse_points_are_given_up_for_small_masks_only() -> None:
    """Else eight points that all miss the coins would be all that is ever asked about a cloth full of them."""
    for coarse in (5, 6):  # three points are decoded: what is asked is the fourth, fifth and sixth
        seen = Seen(coarse_points=coarse)
        add(seen, (3, 3), SMALL, LARGE)
        add(seen, (17, 5), LARGE)
        add(seen, (17, 2))
        assert seen.covers(at((3, 4), (5, 15), (15, 5))).tolist() == [True, False, coarse < 6]

"""Where a mask points first."""

from __future__ import annotations

import numpy as np

from mllmseg.eval.metrics.points import first_hit


def test_the_centre_of_a_mask_comes_first() -> None:
    prediction = np.zeros((6, 8), dtype=bool)
    prediction[1:4, 2:7] = True  # 3 × 5 pixels around (2, 4)
    for pixel, rank in {(2, 4): 1, (2, 5): 2, (1, 4): 2, (1, 3): 6, (2, 6): 10, (3, 6): 12}.items():
        target = np.zeros_like(prediction)
        target[pixel] = True
        assert first_hit(prediction, target) == rank, pixel


def test_the_best_pixel_in_the_target_counts() -> None:
    prediction = np.ones((3, 3), dtype=bool)
    target = np.zeros((3, 3), dtype=bool)
    target[0] = True  # two corners at rank 6, the middle of an edge at rank 2
    assert first_hit(prediction, target) == 2


def test_a_ring_points_at_itself_not_at_its_hole() -> None:
    ring = np.ones((3, 3), dtype=bool)
    ring[1, 1] = False
    hole = ~ring
    assert first_hit(ring, hole) == 0
    assert first_hit(ring, ring) == 1


def test_empty_masks_hit_nothing() -> None:
    full, empty = np.ones((2, 2), dtype=bool), np.zeros((2, 2), dtype=bool)
    assert first_hit(empty, full) == first_hit(full, empty) == first_hit(empty, empty) == 0

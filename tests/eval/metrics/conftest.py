"""4×4 masks with every combination of empty and non-empty, as samples, for all scorers' hand counts."""

from __future__ import annotations

import numpy as np
import pytest

from mllmseg.eval.metrics import Sample


def mask(rows: str) -> np.ndarray:
    """`"1100 1100 0000 0000"` → `[4, 4]` bool."""
    return np.array([[char == "1" for char in row] for row in rows.split()])


NONE = mask("0000 0000 0000 0000")
CORNER = mask("1100 1100 0000 0000")  # 4 pixels
LEFT = mask("1100 1100 1100 1100")  # 8 pixels, holds CORNER
RIGHT = mask("0011 0011 0011 0011")

# prediction, target, exists                            I   U   P
CASES = {
    "half": (CORNER, LEFT, True),  #                    4   8   4
    "exact": (LEFT, LEFT, True),  #                     8   8   8
    "beside": (RIGHT, LEFT, True),  #                   0  16   8
    "target, nothing painted": (NONE, LEFT, True),  #   0   8   0
    "target, rejected": (NONE, LEFT, False),  #         0   8   0
    "target, rejected, hidden mask": (CORNER, LEFT, False),  # 0 8 0, forced 4 of 8
    "no target, painted": (CORNER, NONE, True),  #      0   4   4
    "no target, nothing painted": (NONE, NONE, True),  # 0  0   0
    "no target, rejected": (NONE, NONE, False),  #      0   0   0
    "no target, rejected, hidden mask": (CORNER, NONE, False),  # 0 0 0, forced 0 of 4
}


@pytest.fixture
def cases() -> dict[str, Sample]:
    """Each case, as the only sentence about its own image."""
    return {
        name: Sample.from_masks(prediction, target, exists=exists, image=name, index=index, ref=name)
        for index, (name, (prediction, target, exists)) in enumerate(CASES.items())
    }

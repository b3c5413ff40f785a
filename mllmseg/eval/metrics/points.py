"""Where a mask points: the pixels that "recall@k" and the pointing game look at."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]


def first_hit(prediction: Mask, target: Mask) -> int:
    """The rank of the first of a mask's pixels, best first, that lies in the target.

    A mask of ones and zeros does not say which of its pixels it is surest of, so this project ranks them by closeness
    to the mask's centroid (ours; the published evaluation ranks the pixels of a heat map). Pixels at the same distance
    share the rank of the first of them.

    Args:
        prediction: `[H, W]`.
        target: `[H, W]`.

    Returns:
        1 for the most central pixel, 2 for the next, …; 0 where no pixel of the mask lies in the target.
    """
    rows, columns = np.flatnonzero(prediction.any(1)), np.flatnonzero(prediction.any(0))
    if not len(rows):
        return 0
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]  # most masks are small: look at nothing else
    mask, hits = prediction[box], prediction[box] & target[box]
    if not hits.any():
        return 0
    vertical, horizontal = (
        (np.arange(len(sums)) - (np.arange(len(sums)) @ sums) / sums.sum()) ** 2 for sums in (mask.sum(1), mask.sum(0))
    )
    # Rounded, so that pixels placed symmetrically around the centroid tie whatever the last bit of a sum says.
    distances = np.round(vertical[:, None] + horizontal, 6)
    return int((mask & (distances < distances[hits].min())).sum()) + 1

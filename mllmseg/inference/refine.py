"""SAM's own prompts, points and boxes, on a picture whose embeddings are computed already.

Shapes: H W the picture's own size, K points.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from mllmseg.constants import SAM_IMAGE_SIZE, SAM_LOW_RES_STRIDE
from mllmseg.errors import AlignmentError, DataError
from mllmseg.models.postprocess import postprocess_masks
from mllmseg.models.sam import Sam
from mllmseg.structures import ImageFeatures

# A mask prompt holds logits; SAM was trained with its own, which lie in about this range.
_PRIOR_LOGIT = 8.0


@torch.no_grad()
def refine_mask(
    sam: Sam,
    features: ImageFeatures,
    *,
    points: Sequence[tuple[float, float, bool]] = (),
    box: tuple[float, float, float, float] | None = None,
    prior: npt.NDArray[np.bool_] | None = None,
) -> tuple[Tensor, float]:
    """One mask from clicks or a box, starting from a mask where one is given.

    Args:
        sam: on the device of `features`.
        features: of the picture, with image embeddings.
        points: (x, y, whether it lies inside), in pixels of the picture.
        box: (x, y, width, height) around the thing, in pixels of the picture.
        prior: `[H, W]`, the mask to correct.

    Returns:
        `[H, W]` bool on the CPU, and SAM's estimate of its IoU, 0..1.

    Raises:
        DataError: no prompt at all, one outside of the picture, or features without embeddings.
        AlignmentError: the prior has another size than the picture.
    """
    if features.image_embeddings is None:
        raise DataError("these features came without SAM's image embeddings: set the image itself")
    _check(points, box, prior, features.original_size)
    # A click on a mask corrects it; without a box, SAM would rather take it for a click on one of its parts.
    if box is None and prior is not None and prior.any():
        box = _around(prior, [(x, y) for x, y, inside in points if inside])
    device = features.image_embeddings.device
    sparse = _sparse(sam, features, points, box, device)
    dense = sam.no_mask_dense(1) if prior is None else sam.embed_mask_prompt(_as_logits(prior, features).to(device))
    # A lone click may mean a part or the whole: of three masks the one SAM trusts most.
    ambiguous = box is None and len(points) == 1
    low_res, scores = sam.decode_masks(features.image_embeddings, sparse, dense, multimask_output=ambiguous)
    best = int(scores[0].argmax())
    mask = postprocess_masks(low_res[0, best : best + 1], features.input_size, features.original_size)[0].cpu()
    return mask, float(scores[0, best].clamp(0, 1))


def _check(
    points: Sequence[tuple[float, float, bool]],
    box: tuple[float, float, float, float] | None,
    prior: npt.NDArray[np.bool_] | None,
    size: tuple[int, int],
) -> None:
    height, width = size
    if not points and box is None:
        raise DataError("to refine a mask, give points or a box")
    for x, y, _ in points:
        if not (0 <= x < width and 0 <= y < height):
            raise DataError(f"the point ({x:g}, {y:g}) lies outside of the picture of {width} x {height} pixels")
    if box is not None:
        x, y, wide, high = box
        if wide <= 0 or high <= 0 or x >= width or y >= height or x + wide <= 0 or y + high <= 0:
            raise DataError(f"the box {box} (x, y, width, height) has no pixel of the picture of {width} x {height}")
    if prior is not None and prior.shape != size:
        raise AlignmentError(f"a mask {prior.shape} does not fit a picture [H, W] of {size}")


def _around(prior: npt.NDArray[np.bool_], points: list[tuple[float, float]]) -> tuple[float, float, float, float]:
    """(x, y, width, height) around a mask and the points that belong to it."""
    rows, columns = np.flatnonzero(prior.any(1)), np.flatnonzero(prior.any(0))
    across = [float(columns[0]), float(columns[-1]), *(x for x, _ in points)]
    down = [float(rows[0]), float(rows[-1]), *(y for _, y in points)]
    left, top = min(across), min(down)
    return left, top, max(across) - left + 1, max(down) - top + 1


def _sparse(
    sam: Sam,
    features: ImageFeatures,
    points: Sequence[tuple[float, float, bool]],
    box: tuple[float, float, float, float] | None,
    device: torch.device,
) -> Tensor:
    """`[1, K, 256]`: embeddings of box and points."""
    height, width = features.original_size
    scale = torch.tensor([features.input_size[1] / width, features.input_size[0] / height])
    found = []
    if box is not None:
        x, y, wide, high = box
        corners = torch.tensor([[max(x, 0), max(y, 0)], [min(x + wide, width), min(y + high, height)]])
        found.append(sam.embed_boxes((corners * scale).reshape(1, 4).to(device)))
    if points:
        places = torch.tensor([[[x + 0.5, y + 0.5] for x, y, _ in points]]) * scale
        labels = torch.tensor([[int(inside) for *_, inside in points]])
        embedded = sam.embed_points(places.to(device), labels.to(device))
        # The last one says that there is no box: untrue beside one.
        found.append(embedded if box is None else embedded[:, :-1])
    return torch.cat(found, dim=1)


def _as_logits(mask: npt.NDArray[np.bool_], features: ImageFeatures) -> Tensor:
    """`[1, 1, 256, 256]`: a mask as SAM's low-res logits, the padding outside."""
    side = SAM_IMAGE_SIZE // SAM_LOW_RES_STRIDE
    rows, columns = (max(1, -(-length // SAM_LOW_RES_STRIDE)) for length in features.input_size)
    small = F.interpolate(torch.from_numpy(mask.copy())[None, None].float(), (rows, columns), mode="area")
    logits = torch.full((1, 1, side, side), -_PRIOR_LOGIT)
    logits[..., :rows, :columns] = (2 * small - 1) * _PRIOR_LOGIT
    return logits

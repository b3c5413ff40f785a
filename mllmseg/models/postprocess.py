"""SAM's low-res logits to masks, boxes and run-length codes at the image's own size.

Shapes: N masks, H W the image's own size.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mllmseg.constants import SAM_IMAGE_SIZE
from mllmseg.errors import DataError

# Logits held at once while a large image's masks are thresholded: 64 MiB of float32.
_MAX_LOGITS = 1 << 24


def _valid_window(low_res_logits: Tensor, input_size: tuple[int, int]) -> Tensor:
    """`[N, 1, h, w]`: logits at SAM's input resolution, padding cut off."""
    square = F.interpolate(
        low_res_logits[:, None].float(), (SAM_IMAGE_SIZE, SAM_IMAGE_SIZE), mode="bilinear", align_corners=False
    )
    return square[..., : input_size[0], : input_size[1]]


def upsample_masks(low_res_logits: Tensor, input_size: tuple[int, int], original_size: tuple[int, int]) -> Tensor:
    """Mask logits at the image's own size, by the rule of `segment_anything`'s `Sam.postprocess_masks`.

    Args:
        low_res_logits: `[N, 256, 256]` from the mask decoder.
        input_size: (height, width) of the valid window of SAM's 1024-pixel input.
        original_size: (H, W) of the image, in pixels.

    Returns:
        `[N, H, W]` float32 logits; differentiable.
    """
    window = _valid_window(low_res_logits, input_size)
    return F.interpolate(window, original_size, mode="bilinear", align_corners=False)[:, 0]


@torch.no_grad()
def postprocess_masks(
    low_res_logits: Tensor,
    input_size: tuple[int, int],
    original_size: tuple[int, int],
    *,
    threshold: float = 0.0,
) -> Tensor:
    """`[N, H, W]` bool: `upsample_masks(...) > threshold`, one mask and one band of rows at a time.

    Float logits of a few masks of an 8000-pixel image would take gigabytes; here the floats stay below 64 MiB.
    """
    height, width = original_size
    masks = torch.empty(len(low_res_logits), height, width, dtype=torch.bool, device=low_res_logits.device)
    rows = max(1, _MAX_LOGITS // width)
    for index in range(len(low_res_logits)):
        if height <= rows:
            masks[index] = upsample_masks(low_res_logits[index : index + 1], input_size, original_size)[0] > threshold
            continue
        window = _valid_window(low_res_logits[index : index + 1], input_size)
        wide = F.interpolate(window, (window.shape[-2], width), mode="bilinear", align_corners=False)[0, 0]
        for start in range(0, height, rows):
            stop = min(start + rows, height)
            masks[index, start:stop] = _upsample_rows(wide, height, start, stop) > threshold
    return masks


def _upsample_rows(wide: Tensor, height: int, start: int, stop: int) -> Tensor:
    """Rows `start..stop` of `wide [h, W]` upsampled to `height` rows: `[stop - start, W]`.

    Float32 throughout and columns before rows, as torch's own kernel: the thresholded masks then agree to the pixel.
    """
    scale = torch.tensor(wide.shape[0] / height, dtype=torch.float32)
    source = ((torch.arange(start, stop, dtype=torch.float32) + 0.5) * scale - 0.5).clamp(min=0).to(wide.device)
    above = source.long().clamp(max=wide.shape[0] - 1)
    below = (above + 1).clamp(max=wide.shape[0] - 1)
    weight = (source - above)[:, None]
    return (1 - weight) * wide[above] + weight * wide[below]


def mask_boxes(masks: Tensor) -> Tensor:
    """Tight boxes.

    Args:
        masks: `[N, H, W]` bool.

    Returns:
        `[N, 4]` int64 (x, y, width, height) in pixels; zeros for an empty mask.
    """
    starts, sizes = [], []
    for used in (masks.any(1), masks.any(2)):  # columns [N, W], then rows [N, H]
        flags = used.to(torch.uint8)
        first = flags.argmax(1)
        last = used.shape[1] - 1 - flags.flip(1).argmax(1)
        some = used.any(1)
        starts.append(first * some)
        sizes.append((last - first + 1) * some)
    return torch.stack([*starts, *sizes], 1).long()


def encode_rle(mask: Tensor | np.ndarray[Any, Any]) -> dict[str, Any]:
    """COCO's compressed run-length code of one mask `[H, W]`: `{"size": [H, W], "counts": str}`, ready for JSON."""
    from pycocotools import mask as coco_mask

    array = mask.detach().cpu().numpy() if isinstance(mask, Tensor) else mask
    if array.ndim != 2:
        raise DataError(f"encode_rle takes one mask [H, W], got shape {tuple(array.shape)}")
    rle = coco_mask.encode(np.asfortranarray(array != 0, dtype=np.uint8))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}


def decode_rle(rle: dict[str, Any]) -> Tensor:
    """`[H, W]` bool from COCO's run-length code, compressed (str or bytes) or a list of counts.

    Raises:
        DataError: keys are missing or the code is damaged.
    """
    from pycocotools import mask as coco_mask

    try:
        height, width = (int(side) for side in rle["size"])
        counts = rle["counts"]
        if isinstance(counts, list):
            if sum(counts) != height * width:
                raise ValueError(f"counts sum to {sum(counts)}, not {height} x {width}")
            packed = coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)
        else:
            packed = {"size": [height, width], "counts": counts.encode() if isinstance(counts, str) else counts}
            if (total := _compressed_total(packed["counts"])) != height * width:
                raise ValueError(f"counts sum to {total}, not {height} x {width}")
        return torch.from_numpy(np.ascontiguousarray(coco_mask.decode(packed))).bool()
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"not a COCO run-length code ({error}): {str(rle)[:80]}") from error


def _compressed_total(counts: bytes) -> int:
    """The pixels that a compressed code covers; pycocotools fills what a short one leaves with whatever was there.

    Five bits a character, the sixth says that the number goes on, and from the fourth number on each is given as the
    difference to the one before the last (cocoapi, `rleFrString`).

    Raises:
        ValueError: the code is damaged.
    """
    runs: list[int] = []
    value = shift = 0
    for byte in counts:
        bits = byte - 48
        if not 0 <= bits < 64:
            raise ValueError(f"character {chr(byte)!r} in counts")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        if runs[-1] < 0:
            raise ValueError("a negative run in counts")
        value = shift = 0
    if shift:
        raise ValueError("counts end within a number")
    return sum(runs)

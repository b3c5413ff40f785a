"""The feature cache: what the frozen stages say about a photo, and its instances' masks, computed once.

An image costs seconds on a CPU, a training step needs it in milliseconds. One safetensors file a photo, written
under a temporary name and renamed, so that filling can stop and go on at any moment and several processes may share
the work. The folder's name carries a hash of the settings that the features depend on: a stale cache is never read.

I instances, S superpixels, h w the valid window of SAM's low-res grid, C patch-feature channels.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mllmseg.config import ModelConfig
from mllmseg.constants import SAM_IMAGE_SIZE
from mllmseg.data.datasets.coco_mini import Instance, Photo, instance_mask
from mllmseg.data.transforms import load_image, preprocess
from mllmseg.errors import DataError
from mllmseg.models.allocator import keep_freed_memory
from mllmseg.models.build import build_vision_stack
from mllmseg.models.vision_stack import VisionStack
from mllmseg.structures import ImageFeatures, Superpixels

# A mask estimated from a box is kept where its own box agrees with the label's this well, and SAM thinks well of it.
MIN_BOX_IOU = 0.75
MIN_PREDICTED_IOU = 0.70
# Boxes below this share of the image give masks of a few low-res pixels: not worth a decoder pass.
MIN_BOX_SHARE = 0.004
MAX_ESTIMATES = 10


@dataclass(frozen=True)
class CachedPhoto:
    """Features of a photo and the masks of its instances.

    Attributes:
        features: as `VisionStack.encode_image` gives them; floats as stored (float16).
        masks: instance id → `[h, w]` bool.
        estimated: ids whose mask SAM estimated from a box; the others are human.
    """

    features: ImageFeatures
    masks: dict[int, Tensor]
    estimated: frozenset[int]


class FeatureCache:
    """A folder of cached photos for one configuration of the frozen stages."""

    def __init__(self, root: str | os.PathLike[str], config: ModelConfig) -> None:
        parts = {
            "sam": config.sam.model_dump(mode="json"),
            "superpixels": config.superpixels.model_dump(mode="json"),
            "vision_tower": config.vision_tower.model_dump(mode="json"),
        }
        digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]
        self.config = config
        self.folder = pathlib.Path(root) / digest

    def __contains__(self, photo: Photo) -> bool:
        return self._path(photo).is_file()

    def fill(self, photos: Sequence[Photo], *, workers: int = 1) -> None:
        """Computes what is missing. Safe to interrupt and to run several times at once."""
        self.folder.mkdir(parents=True, exist_ok=True)
        missing = [photo for photo in photos if photo not in self]
        if not missing:
            return
        context = multiprocessing.get_context("spawn")
        processes = [
            context.Process(target=_fill_shard, args=(self, missing[rank::workers], workers))
            for rank in range(min(workers, len(missing)))
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        failed = [photo.path.name for photo in missing if photo not in self]
        if failed:
            raise DataError(f"{self.folder}: {len(failed)} photos could not be cached, first {failed[0]}; see above")

    def write(self, photo: Photo, stack: VisionStack) -> None:
        """Computes and stores one photo."""
        tower = self.config.vision_tower
        inputs = preprocess(load_image(photo.path), tower_size=tower.image_size, patch_size=tower.patch_size)
        if inputs.original_size != photo.size:
            raise DataError(f"{photo.path} is {inputs.original_size}, its label says {photo.size}")
        features = stack.encode_image(inputs)
        masks, estimated = _instance_masks(photo, features, stack)
        superpixels = features.superpixels
        assert features.image_embeddings is not None
        tensors = {
            "label_map": superpixels.label_map.to(torch.int16),
            "boxes": superpixels.boxes,
            "areas": superpixels.areas,
            "scores": superpixels.scores,
            "image_embeddings": features.image_embeddings.half(),
            "patch_features": features.patch_features.half(),
            "sizes": torch.tensor([*features.input_size, *features.original_size]),
            "mask_ids": torch.tensor(list(masks), dtype=torch.int64),
            "mask_estimated": torch.tensor([key in estimated for key in masks], dtype=torch.bool),
            "mask_bits": _pack(list(masks.values())),
        }
        path = self._path(photo)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        save_file({key: value.contiguous() for key, value in tensors.items()}, temporary)
        temporary.rename(path)

    def read(self, photo: Photo, *, embeddings: bool = True) -> CachedPhoto:
        """Reads one photo; `embeddings=False` leaves SAM's image embeddings on disk.

        Raises:
            DataError: the photo is not cached, or its file is damaged.
        """
        path = self._path(photo)
        try:
            with safe_open(path, "pt") as file:
                skip = set() if embeddings else {"image_embeddings"}
                tensors = {key: file.get_tensor(key) for key in file.keys() if key not in skip}  # noqa: SIM118
        except FileNotFoundError as error:
            raise DataError(f"{path}: this photo is not cached; fill the cache first") from error
        except SafetensorError as error:
            raise DataError(f"{path} is damaged ({error}); delete it and fill the cache again") from error
        sizes = tensors["sizes"].tolist()
        label_map = tensors["label_map"].to(torch.int64)
        superpixels = Superpixels(label_map, tensors["boxes"], tensors["areas"], tensors["scores"])
        features = ImageFeatures(
            tensors.get("image_embeddings"), superpixels, tensors["patch_features"], tuple(sizes[:2]), tuple(sizes[2:])
        )
        ids, estimated = tensors["mask_ids"].tolist(), tensors["mask_estimated"].tolist()
        masks = _unpack(tensors["mask_bits"], len(ids), label_map.shape)
        return CachedPhoto(
            features,
            dict(zip(ids, masks, strict=True)),
            frozenset(key for key, flag in zip(ids, estimated, strict=True) if flag),
        )

    def _path(self, photo: Photo) -> pathlib.Path:
        return self.folder / f"{photo.path.stem}.safetensors"


def _fill_shard(cache: FeatureCache, photos: Sequence[Photo], workers: int) -> None:
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))
    keep_freed_memory()
    stack = build_vision_stack(cache.config)
    for photo in photos:
        if photo not in cache:
            cache.write(photo, stack)


def _instance_masks(
    photo: Photo, features: ImageFeatures, stack: VisionStack
) -> tuple[dict[int, Tensor], frozenset[int]]:
    """Low-res masks of a photo's instances: drawn where a person drew them, else estimated by SAM from the box."""
    grid = features.superpixels.label_map.shape
    masks: dict[int, Tensor] = {}
    boxed: list[Instance] = []
    for instance in photo.instances:
        if instance.segmentation:
            mask = torch.from_numpy(instance_mask(photo, instance)).float()
            masks[instance.id] = F.interpolate(mask[None, None], size=grid, mode="area")[0, 0] >= 0.5
        elif not instance.is_crowd and instance.box[2] * instance.box[3] >= MIN_BOX_SHARE * np.prod(photo.size):
            boxed.append(instance)
    boxed = sorted(boxed, key=lambda item: -item.box[2] * item.box[3])[:MAX_ESTIMATES]
    if not boxed:
        return masks, frozenset()
    scale = SAM_IMAGE_SIZE / max(photo.size)
    boxes = torch.tensor([_corners(instance) for instance in boxed]) * scale
    assert features.image_embeddings is not None
    low_res_masks, predicted_ious = stack.sam.predict_boxes(features.image_embeddings, boxes)
    kept = set()
    for instance, box, logits, predicted in zip(boxed, boxes, low_res_masks, predicted_ious, strict=True):
        mask = (logits.reshape(logits.shape[-2:]) > 0)[: grid[0], : grid[1]]
        if float(predicted.flatten()[0]) >= MIN_PREDICTED_IOU and _box_iou(mask, box / 4) >= MIN_BOX_IOU:
            masks[instance.id] = mask
            kept.add(instance.id)
    return masks, frozenset(kept)


def _corners(instance: Instance) -> list[float]:
    x, y, width, height = instance.box
    return [x, y, x + width, y + height]


def _box_iou(mask: Tensor, box: Tensor) -> float:
    """IoU of a mask's own box with `box` (x0, y0, x1, y1), both in low-res pixels."""
    ys, xs = mask.nonzero(as_tuple=True)
    if not len(xs):
        return 0.0
    x0, y0, x1, y1 = float(xs.min()), float(ys.min()), float(xs.max()) + 1, float(ys.max()) + 1
    bx0, by0, bx1, by1 = box.tolist()
    overlap = max(0.0, min(x1, bx1) - max(x0, bx0)) * max(0.0, min(y1, by1) - max(y0, by0))
    return overlap / max(1e-6, (x1 - x0) * (y1 - y0) + (bx1 - bx0) * (by1 - by0) - overlap)


def _pack(masks: list[Tensor]) -> Tensor:
    if not masks:
        return torch.zeros(0, dtype=torch.uint8)
    return torch.from_numpy(np.packbits(torch.stack(masks).flatten(1).numpy(), axis=1))


def _unpack(bits: Tensor, count: int, grid: torch.Size) -> Tensor:
    if not count:
        return torch.zeros(0, *grid, dtype=torch.bool)
    flat = np.unpackbits(bits.numpy(), axis=1, count=grid.numel())
    return torch.from_numpy(flat.astype(bool)).view(count, *grid)

"""SAM by composition: segment_anything's own prompt encoder and mask decoder, any of its encoders or TinyViT.

Nothing of SAM is forked: the [SEG] prompt is a sparse prompt embedding, the superpixel prior a mask prompt.

Shapes: B batch, N prompts on one image, K sparse embeddings of a prompt; image embeddings are `[256, 64, 64]`, low-res
masks `[256, 256]` logits at a stride of 4 on SAM's 1024-pixel input, padding included.
"""

from __future__ import annotations

import pathlib
import pickle
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn

from mllmseg.config import SamConfig
from mllmseg.constants import SAM_EMBEDDING_DIM, SAM_EMBEDDING_STRIDE, SAM_IMAGE_SIZE
from mllmseg.errors import CheckpointError
from mllmseg.models._segment_anything import import_segment_anything
from mllmseg.models.tiny_vit import CLASSIFIER_KEYS, TinyViT

# Width, depth, heads and the blocks with global attention of segment_anything's encoders.
_VIT: dict[str, tuple[int, int, int, list[int]]] = {
    "vit_b": (768, 12, 12, [2, 5, 8, 11]),
    "vit_l": (1024, 24, 16, [5, 11, 17, 23]),
    "vit_h": (1280, 32, 16, [7, 15, 23, 31]),
}
_GRID = (SAM_IMAGE_SIZE // SAM_EMBEDDING_STRIDE,) * 2
# Official files hold these buffers of segment_anything's own Sam class; preprocessing has its home in `data`.
_PREPROCESSING_KEYS = ("pixel_mean", "pixel_std")


class Sam(nn.Module):
    """Image encoder, prompt encoder and mask decoder, frozen and in eval mode.

    Args:
        image_encoder: pixels `[B, 3, 1024, 1024]` → `[B, 256, 64, 64]`.
        prompt_encoder: segment_anything's PromptEncoder, or one with its methods.
        mask_decoder: segment_anything's MaskDecoder, or one with its methods.
    """

    def __init__(self, image_encoder: nn.Module, prompt_encoder: nn.Module, mask_decoder: nn.Module) -> None:
        super().__init__()
        self.image_encoder = image_encoder
        self.prompt_encoder: Any = prompt_encoder
        self.mask_decoder: Any = mask_decoder
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        """Stays in eval mode: the encoder's batch norms are frozen, and nothing else depends on the mode."""
        return super().train(False)

    def encode_image(self, sam_pixels: Tensor) -> Tensor:
        """Normalised, padded pixels `[B, 3, 1024, 1024]` → image embeddings `[B, 256, 64, 64]` float32.

        Computes in the encoder's own dtype, so `sam.image_encoder.bfloat16()` is all that half precision takes.
        """
        dtype = next(self.image_encoder.parameters()).dtype
        return self.image_encoder(sam_pixels.to(dtype)).float()

    def get_dense_pe(self) -> Tensor:
        """Positional encoding of the embedding grid, `[1, 256, 64, 64]`."""
        return self.prompt_encoder.get_dense_pe()

    def no_mask_dense(self, count: int) -> Tensor:
        """Dense prompt embeddings of `count` prompts without a mask, `[count, 256, 64, 64]` (a view)."""
        weight = self.prompt_encoder.no_mask_embed.weight
        return weight.view(1, -1, 1, 1).expand(count, -1, *_GRID)

    def embed_mask_prompt(self, low_res_mask_logits: Tensor) -> Tensor:
        """Mask prompts `[N, 1, 256, 256]` (logits) → dense prompt embeddings `[N, 256, 64, 64]`."""
        return self.prompt_encoder.mask_downscaling(low_res_mask_logits)

    def embed_points(self, points: Tensor, labels: Tensor) -> Tensor:
        """Points `[N, K, 2]` (x, y) in SAM input pixels and labels `[N, K]` → sparse embeddings `[N, K+1, 256]`.

        Labels are 1 for inside, 0 for outside; the extra embedding says that there is no box.
        """
        return self.prompt_encoder(points=(points, labels), boxes=None, masks=None)[0]

    def embed_boxes(self, boxes: Tensor) -> Tensor:
        """Boxes `[N, 4]` (x0, y0, x1, y1) in SAM input pixels → sparse prompt embeddings `[N, 2, 256]`."""
        return self.prompt_encoder(points=None, boxes=boxes, masks=None)[0]

    def decode_masks(
        self,
        image_embeddings: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
        multimask_output: bool = False,
        mask_decoder: nn.Module | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Masks of N prompts on one image; differentiable in both prompt embeddings.

        Args:
            image_embeddings: `[1, 256, 64, 64]`.
            sparse_prompt_embeddings: `[N, K, 256]`.
            dense_prompt_embeddings: `[N, 256, 64, 64]`.
            multimask_output: three masks a prompt (subpart, part, whole) instead of one.
            mask_decoder: a trained one in the place of SAM's own.

        Returns:
            low-res masks `[N, 1 | 3, 256, 256]` logits, and SAM's estimates of their IoU `[N, 1 | 3]`.
        """
        return (mask_decoder or self.mask_decoder)(
            image_embeddings=image_embeddings,
            image_pe=self.get_dense_pe(),
            sparse_prompt_embeddings=sparse_prompt_embeddings,
            dense_prompt_embeddings=dense_prompt_embeddings,
            multimask_output=multimask_output,
        )

    @torch.no_grad()
    def predict_boxes(self, image_embeddings: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """One mask for each box `[N, 4]` (x0, y0, x1, y1, SAM input pixels): `[N, 1, 256, 256]`, IoUs `[N, 1]`."""
        return self.decode_masks(
            image_embeddings=image_embeddings,
            sparse_prompt_embeddings=self.embed_boxes(boxes),
            dense_prompt_embeddings=self.no_mask_dense(len(boxes)),
        )


def build_sam(config: SamConfig, checkpoint_path: pathlib.Path | None) -> Sam:
    """Builds a SAM and loads its weights strictly.

    Args:
        config: which encoder.
        checkpoint_path: an official SAM or MobileSAM file, or None for random weights (tests).

    Raises:
        CheckpointError: the file is missing, unreadable, or its keys or shapes are not this model's.
    """
    modeling = import_segment_anything().modeling
    sam = Sam(
        image_encoder=TinyViT() if config.encoder == "tiny_vit" else _build_vit(modeling, config.encoder),
        prompt_encoder=modeling.PromptEncoder(
            embed_dim=SAM_EMBEDDING_DIM,
            image_embedding_size=_GRID,
            input_image_size=(SAM_IMAGE_SIZE, SAM_IMAGE_SIZE),
            mask_in_chans=16,
        ),
        mask_decoder=modeling.MaskDecoder(
            num_multimask_outputs=3,
            transformer=modeling.TwoWayTransformer(depth=2, embedding_dim=SAM_EMBEDDING_DIM, mlp_dim=2048, num_heads=8),
            transformer_dim=SAM_EMBEDDING_DIM,
            iou_head_depth=3,
            iou_head_hidden_dim=256,
        ),
    )
    if checkpoint_path is not None:
        _load(sam, checkpoint_path)
    return sam


def _build_vit(modeling: Any, encoder: str) -> nn.Module:
    width, depth, heads, global_blocks = _VIT[encoder]
    return modeling.ImageEncoderViT(
        depth=depth,
        embed_dim=width,
        img_size=SAM_IMAGE_SIZE,
        mlp_ratio=4,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        num_heads=heads,
        patch_size=SAM_EMBEDDING_STRIDE,
        qkv_bias=True,
        use_rel_pos=True,
        global_attn_indexes=global_blocks,
        window_size=14,
        out_chans=SAM_EMBEDDING_DIM,
    )


def _load(sam: Sam, path: pathlib.Path) -> None:
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path}: cannot be read as a SAM checkpoint: {error}") from error
    if not isinstance(weights, dict):
        raise CheckpointError(f"{path}: expected a dictionary of tensors, found {type(weights).__name__}")
    beside_the_model = {*_PREPROCESSING_KEYS}
    if isinstance(sam.image_encoder, TinyViT):
        beside_the_model |= {f"image_encoder.{key}" for key in CLASSIFIER_KEYS}
    weights = {key: value for key, value in weights.items() if key not in beside_the_model}
    expected = sam.state_dict()
    problems = {
        "missing": [key for key in expected if key not in weights],
        "unexpected": [key for key in weights if key not in expected],
        "of another shape": [key for key in expected if key in weights and weights[key].shape != expected[key].shape],
    }
    if any(problems.values()):
        found = "; ".join(f"{len(keys)} keys {kind}: {_some(keys)}" for kind, keys in problems.items() if keys)
        raise CheckpointError(f"{path}: not the weights of this SAM ({found}); is `sam.encoder` right?")
    sam.load_state_dict(weights, strict=True)


def _some(keys: list[str], limit: int = 5) -> str:
    return ", ".join(keys[:limit]) + (f" and {len(keys) - limit} more" if len(keys) > limit else "")

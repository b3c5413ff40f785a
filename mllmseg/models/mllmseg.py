"""The model: stages 1 to 8 in the order of the data flow.

B images, T tokens, N [SEG] tokens of one image, M decisions, S superpixels, V visual tokens, D LLM width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from mllmseg.config import ModelConfig
from mllmseg.constants import IGNORE_INDEX, SAM_IMAGE_SIZE, SAM_LOW_RES_STRIDE
from mllmseg.models.head import HeadOutput, Regions, SegHead, paint
from mllmseg.models.head_inputs import Words
from mllmseg.models.mllm import Mllm, branch_attention_mask, pad
from mllmseg.models.pooling import pool_superpixels, superpixel_geometry
from mllmseg.models.projector import Projector
from mllmseg.models.vision_stack import VisionStack
from mllmseg.structures import ImageFeatures, ImageInputs, PackedText, VisualTokens
from mllmseg.timing import Stopwatch

# `[1, 256, 64, 64]` image embeddings, `[N, K, 256]` sparse and `[N, 256, 64, 64]` dense prompts → `[N, 1, 256, 256]`
# mask logits and `[N, 1]` IoUs.
DecodeMasks = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class ImageOutput:
    """What the forward pass says about one image.

    Attributes:
        head: `superpixel_logits [N, S]` and `prompt_embeddings [N, 256]`, one row per [SEG] of the packed text.
        exist_logits: `[M]` one per decision.
        decision_superpixel_logits: `[M, S]` where the target would be, as seen before deciding.
    """

    head: HeadOutput
    exist_logits: Tensor
    decision_superpixel_logits: Tensor


@dataclass(frozen=True)
class ModelOutput:
    """What the forward pass says about a batch: text logits `[K, vocabulary]` with labels `[K]`, and each image."""

    text_logits: Tensor
    text_labels: Tensor
    images: list[ImageOutput]


class MLLMSeg(nn.Module):
    """Vision stack, projector, language model and [SEG] head, by composition.

    `mask_decoder`, where there is one, decodes answers in the place of SAM's own and is trained.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        vision: VisionStack,
        projector: Projector,
        mllm: Mllm,
        head: SegHead,
        mask_decoder: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.vision = vision
        self.projector = projector
        self.mllm = mllm
        self.head = head
        self.mask_decoder = mask_decoder
        if mask_decoder is not None:
            mask_decoder.requires_grad_(True)

    def encode_image(self, inputs: ImageInputs, clock: Stopwatch | None = None) -> ImageFeatures:
        """Stages 1 to 3: everything that depends on the image alone. The frozen parts only, so it may be cached."""
        return self.vision.encode_image(inputs, clock)

    def project(self, features: ImageFeatures) -> VisualTokens:
        """Stage 4: patch features and label map → `[V, D]` visual tokens."""
        return self.projector(features.patch_features, features.superpixels)

    def forward(
        self, features: list[ImageFeatures], visual: list[VisualTokens], texts: list[PackedText]
    ) -> ModelOutput:
        """Stages 5 and 6 for training: one packed text per image, its visual tokens from `project`.

        Raises:
            AlignmentError: a text holds another number of placeholders than its image has visual tokens.
        """
        input_ids = pad([text.input_ids for text in texts], 0)
        hidden, _ = self.mllm(
            input_ids,
            visual_tokens=torch.cat([item.embeddings for item in visual]),
            attention_mask=branch_attention_mask(texts),
            position_ids=pad([text.position_ids for text in texts], 0),
        )
        # The logits of a token are read from the hidden state before it.
        labels = pad([text.labels for text in texts], IGNORE_INDEX)
        counted = labels != IGNORE_INDEX
        predictors = hidden[:, :-1][counted[:, 1:]]
        hidden = hidden.float()  # whatever the language model computes in, the head computes in float32
        images = []
        for row, (item, tokens, text) in enumerate(zip(features, visual, texts, strict=True)):
            is_image = text.input_ids == self.mllm.image_token_id
            regions = self.describe(item, tokens, hidden[row, : len(is_image)][is_image])
            images.append(self.point(hidden[row], text, regions))
        return ModelOutput(self.mllm.logits(predictors), labels[counted], images)

    def describe(self, features: ImageFeatures, tokens: VisualTokens, visual_hidden: Tensor) -> Regions:
        """The head's view of the superpixels, from the `[V, D]` hidden states of the visual tokens."""
        pooled = pool_superpixels(features.patch_features, features.superpixels)
        geometry = superpixel_geometry(features.superpixels)
        return self.head.regions(pooled, geometry, tokens.assignment @ visual_hidden)

    def point(self, hidden: Tensor, text: PackedText, regions: Regions) -> ImageOutput:
        """Stage 6: `[T, D]` hidden states of one packed text → prompts and existence."""
        decisions = hidden[text.decision_positions]
        margin = self.mllm.decision_margin(decisions)
        words = self.words(text.input_ids, text.branch_ids, text.decision_positions + 1)
        exist_logits, superpixel_logits = self.head.existence(decisions, words, regions, margin)
        words = self.words(text.input_ids, text.branch_ids, text.seg_positions)
        return ImageOutput(self.head(hidden[text.seg_positions], words, regions), exist_logits, superpixel_logits)

    def words(self, input_ids: Tensor, branch_ids: Tensor, ends: Tensor) -> Words:
        """The words of a branch before each of N places.

        Args:
            input_ids: `[T]` int64.
            branch_ids: `[T]` int64.
            ends: `[N]` int64; a place's words are those before it in the branch of the token before it.
        """
        index = torch.arange(len(input_ids), device=input_ids.device)
        mask = (branch_ids == branch_ids[ends - 1][:, None]) & (index < ends[:, None])
        mask &= ~torch.isin(input_ids, torch.tensor(self.mllm.new_token_ids, device=input_ids.device))
        length = max(1, int(mask.sum(1).max())) if len(ends) else 1
        order = mask.int().argsort(dim=1, descending=True, stable=True)[:, :length]  # the words first, in their order
        return Words(self.mllm.word_embeddings()[input_ids[order]].float(), mask.gather(1, order))

    def decode(
        self, features: ImageFeatures, head: HeadOutput, decode_masks: DecodeMasks | None = None
    ) -> tuple[Tensor, Tensor]:
        """Stage 7: SAM's mask decoder, prompted by the head.

        Args:
            features: of one image.
            head: prompts for N masks.
            decode_masks: the decoder's folded rewrite, for inference; None for SAM's own, which has a gradient.

        Returns:
            `[N, 256, 256]` low-res mask logits and `[N]` SAM's estimate of their IoU.

        Raises:
            ValueError: the features were cached without image embeddings.
        """
        if features.image_embeddings is None:
            raise ValueError("these features hold no image embeddings: rebuild the cache with them, or train no masks")
        prior = paint(head.superpixel_logits, features.superpixels.label_map, SAM_IMAGE_SIZE // SAM_LOW_RES_STRIDE)
        if self.config.head.dense_prior:
            dense = self.vision.sam.embed_mask_prompt(prior)
        else:
            dense = self.vision.sam.no_mask_dense(len(prior))
        decode_masks = decode_masks or partial(self.vision.sam.decode_masks, mask_decoder=self.mask_decoder)
        low_res_masks, iou_predictions = decode_masks(features.image_embeddings, head.prompt_embeddings[:, None], dense)
        low_res_masks = low_res_masks[:, 0]
        if self.config.head.dense_prior:
            # The union of superpixels is a good mask already: SAM's decoder corrects it rather than replaces it.
            low_res_masks = low_res_masks + self.head.prior_weight * prior[:, 0]
        return low_res_masks, iou_predictions[:, 0]

"""What one image is to every query, and the stages that start from it.

H W the image's own size, S superpixels, V visual tokens, N masks, M queries, D LLM width, d head width.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from mllmseg.constants import SEG_TOKEN
from mllmseg.data.conversation import ConversationEncoder
from mllmseg.inference.answers import check_question
from mllmseg.models.folded_decoder import FoldedDecoder
from mllmseg.models.head import HeadOutput, Regions, maximise_expected_iou
from mllmseg.models.mllm import branch_attention_mask
from mllmseg.models.mllmseg import MLLMSeg
from mllmseg.models.postprocess import postprocess_masks
from mllmseg.structures import ImageFeatures, Superpixels, Turn, VisualTokens
from mllmseg.timing import Stopwatch

# Queries share a forward pass up to so many text tokens: the attention of packed queries to each other is masked out
# but computed, so larger packs waste more than they save.
MAX_PACKED_TOKENS = 512
# SAM's decoder works on so many masks at once; each takes about 20 MB of activations.
MASKS_PER_BATCH = 8


@dataclass(frozen=True)
class Scene:
    """One image, understood as far as that is possible without a question.

    Attributes:
        image: RGB, upright; None where features came instead.
        features: stages 1 to 3, float32.
        tokens: `[V, D]` visual tokens.
        regions: the head's view of the superpixels.
        cache: the language model's keys and values of system prompt and visual tokens. Passes extend a copy of it: at
            one token a superpixel that is cheap, and no query can disturb another.
        prefix_length: tokens in the cache.
        timings: milliseconds by stage.
    """

    image: Image.Image | None
    features: ImageFeatures
    tokens: VisualTokens
    regions: Regions
    cache: Any
    prefix_length: int
    timings: dict[str, float]

    @cached_property
    def superpixels(self) -> Superpixels:
        """Those of the features, on the CPU."""
        return self.features.superpixels.to("cpu")

    def copy_cache(self) -> Any:
        """A cache of the prefix that a forward pass may extend."""
        return copy.deepcopy(self.cache)


def build_scene(
    model: MLLMSeg, encoder: ConversationEncoder, features: ImageFeatures, image: Image.Image | None, clock: Stopwatch
) -> Scene:
    """Stage 4, and stage 5 up to the first word of a question."""
    with clock.stage("project"):
        tokens = model.project(features)
    with clock.stage("prefix"):
        text = encoder.prefix(len(tokens.tokens)).to(tokens.tokens.device)
        hidden, cache = model.mllm(
            text.input_ids[None],
            visual_tokens=tokens.embeddings,
            attention_mask=branch_attention_mask([text]),
            position_ids=text.position_ids[None],
            past_key_values=model.mllm.new_cache(),
        )
        is_image = text.input_ids == model.mllm.image_token_id
        regions = model.describe(features, tokens, hidden[0, is_image].float())
    return Scene(image, features, tokens, regions, cache, text.prefix_length, clock.milliseconds)


def pack_queries(
    encoder: ConversationEncoder, scene: Scene, queries: list[str], check_length: Callable[[str, int], None]
) -> list[list[str]]:
    """Consecutive queries that share a forward pass.

    Args:
        encoder: of the model.
        scene: the image.
        queries: phrases or questions.
        check_length: called with each query and the tokens it makes the language model read, prefix included.

    Raises:
        DataError: a query is empty or holds a reserved token.
    """
    packs: list[list[str]] = []
    total = 0
    for query in queries:
        check_question(query)
        length = len(encoder.encode([[Turn(query, SEG_TOKEN)]], 1, with_prefix=False).input_ids)
        check_length(query, scene.prefix_length + length)
        if not packs or total + length > MAX_PACKED_TOKENS:
            packs.append([])
            total = 0
        packs[-1].append(query)
        total += length
    return packs


def score_queries(
    model: MLLMSeg, encoder: ConversationEncoder, scene: Scene, queries: list[str]
) -> tuple[HeadOutput, Tensor]:
    """Stages 5 and 6 in one forward pass: prompts for SAM and `[M]` P(the target exists), a row for each query."""
    branches = [[Turn(query, SEG_TOKEN)] for query in queries]
    text = encoder.encode(branches, len(scene.tokens.tokens), with_prefix=False).to(scene.regions.tokens.device)
    hidden, _ = model.mllm(
        text.input_ids[None],
        visual_tokens=None,
        attention_mask=branch_attention_mask([text], cached=scene.prefix_length),
        position_ids=text.position_ids[None],
        past_key_values=scene.copy_cache(),
    )
    output = model.point(hidden[0].float(), text, scene.regions)
    return choose_superpixels(scene, output.head), model.head.probability(output.exist_logits)


def choose_superpixels(scene: Scene, head: HeadOutput) -> HeadOutput:
    """The same prompts with logits that are positive for just the superpixels of the answer."""
    logits = maximise_expected_iou(head.superpixel_logits, scene.features.superpixels.areas)
    return replace(head, superpixel_logits=logits)


def decode_masks(
    model: MLLMSeg, decoder: FoldedDecoder, scene: Scene, head: HeadOutput, clock: Stopwatch
) -> tuple[Tensor, Tensor]:
    """Stages 7 and 8 for the rows of `head`.

    Returns:
        `[N, H, W]` bool masks, none of them empty, and `[N]` SAM's estimates of their IoU; both on the CPU.
    """
    features = scene.features
    masks = [torch.zeros(0, *features.original_size, dtype=torch.bool)]
    scores = [torch.zeros(0)]
    count = len(head.superpixel_logits)
    for start in range(0, count, MASKS_PER_BATCH):
        part = head.select(torch.arange(start, min(start + MASKS_PER_BATCH, count), device=scene.regions.tokens.device))
        with clock.stage("mask_decoder"):
            low_res_masks, iou_predictions = model.decode(features, part, decoder.decode_masks)
        with clock.stage("postprocess"):
            found = postprocess_masks(low_res_masks, features.input_size, features.original_size)
            for row in (~found.flatten(1).any(1)).nonzero()[:, 0].tolist():
                found[row] = _best_superpixel(features, part.superpixel_logits[row])
            masks.append(found.cpu())
            scores.append(iou_predictions.float().clamp(0, 1).cpu())
    return torch.cat(masks), torch.cat(scores)


def _best_superpixel(features: ImageFeatures, superpixel_logits: Tensor) -> Tensor:
    """`[H, W]` bool: the most probable region alone, for a target that is there but whose mask came out empty.

    Pooled by maximum, so that a region smaller than a pixel of the image still fills one.
    """
    region = features.superpixels.label_map == superpixel_logits.argmax()
    return F.adaptive_max_pool2d(region[None, None].float(), features.original_size)[0, 0].bool()

"""A question about an image → a mask and an answer. What depends on the image alone is computed once.

H W the image's own size.
"""

from __future__ import annotations

import copy
import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from typing import Any, Self, overload

import torch
from PIL import Image
from torch import Tensor

from mllmseg.data.conversation import ConversationEncoder
from mllmseg.data.transforms import ImageSource, load_image, preprocess
from mllmseg.errors import DataError
from mllmseg.inference.answers import agreeing_answer, check_question, compose_answer, is_referring
from mllmseg.inference.generation import generate, turns_of
from mllmseg.inference.pretrained import load_pretrained, pick_device, pick_dtype
from mllmseg.inference.scene import (
    Scene,
    build_scene,
    choose_superpixels,
    decode_masks,
    pack_queries,
    score_queries,
)
from mllmseg.inference.scene_cache import SceneCache
from mllmseg.models.folded_decoder import FoldedDecoder
from mllmseg.models.head import HeadOutput
from mllmseg.models.mllmseg import MLLMSeg
from mllmseg.models.postprocess import mask_boxes
from mllmseg.structures import ImageFeatures, Segmentation
from mllmseg.timing import Stopwatch

DEFAULT_THRESHOLD = 0.5
DEFAULT_IMAGE_CACHE_BYTES = 1 << 28  # some twenty photos of one megapixel


class Segmenter:
    """Answers questions about one image at a time; `set_image` once, then ask as often as you like.

    Args:
        model: the model; it is moved to `device`. Its mode (train or eval) is left as it is found.
        device: where to compute; None for where the model is.
        threshold: a target exists where P(it exists) reaches this.
        image_cache_bytes: how much to remember of images seen before, for a model that is trained no more.
        compiled: decode superpixels by `torch.compile`, which takes its time at the first photo; the same regions but
            for rounding. It does not pay on a CPU (docs/superpixels.md), and where it fails, a warning says why.
    """

    def __init__(
        self,
        model: MLLMSeg,
        *,
        device: torch.device | str | None = None,
        threshold: float = DEFAULT_THRESHOLD,
        image_cache_bytes: int = 0,
        compiled: bool = False,
    ) -> None:
        self.device = next(model.head.parameters()).device if device is None else pick_device(device)
        self.model = model.to(self.device)
        self.threshold = threshold
        if compiled:
            model.vision.superpixel_generator.compiled = True
        # Its own, not the superpixel generator's: that one stays as SAM came, this one may have been trained.
        self._decoder = FoldedDecoder(
            model.vision.sam, getattr(torch, model.config.superpixels.dtype), mask_decoder=model.mask_decoder
        )
        self.encoder = ConversationEncoder(model.mllm.tokenizer, model.config.language_model.system_prompt)
        self._scene: Scene | None = None
        self._scenes = SceneCache(image_cache_bytes)
        self._lock = threading.RLock()

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | PathLike[str] | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | str | None = None,
        threshold: float = DEFAULT_THRESHOLD,
        image_cache_bytes: int = DEFAULT_IMAGE_CACHE_BYTES,
        compiled: bool = False,
        progress: bool = False,
    ) -> Self:
        """Loads a trained model for inference: LoRA is merged, so it cannot be trained or saved again.

        Args:
            name_or_path: a checkpoint folder, a Hugging Face hub id, or None for the model inside this package.
            device: None for the best there is: cuda, mps, cpu.
            dtype: of the language model, `float32` or `bfloat16`; None for bfloat16 where the device computes in it.
            threshold: a target exists where P(it exists) reaches this.
            image_cache_bytes: images seen before are remembered up to this size, shared by all forks; 0 for none.
            compiled: decode superpixels by `torch.compile`.
            progress: show a progress bar on stderr where pre-trained weights must be fetched.

        Raises:
            CheckpointError: there is no such checkpoint, or it does not fit.
            WeightsError: pre-trained weights cannot be fetched.
            ConfigError: no such device or dtype.
        """
        chosen = pick_device(device)
        model = load_pretrained(name_or_path, dtype=pick_dtype(dtype, chosen), progress=progress)
        return cls(model, device=chosen, threshold=threshold, image_cache_bytes=image_cache_bytes, compiled=compiled)

    def fork(self) -> Self:
        """Another segmenter over the same weights without an image: one a user, at hardly any cost."""
        other = copy.copy(self)
        other._scene = None
        return other

    @property
    def image(self) -> Image.Image | None:
        """The image as `set_image` read it: RGB, upright."""
        return self._require_scene().image

    @property
    def features(self) -> ImageFeatures:
        """Superpixels, embeddings and sizes of the image."""
        return self._require_scene().features

    @property
    def timings(self) -> dict[str, float]:
        """Milliseconds by stage of `set_image`; of the first time, for an image that was remembered."""
        return dict(self._require_scene().timings)

    def set_image(self, image: ImageSource) -> None:
        """Reads an image and computes all that no question changes: stages 1 to 4 and the language model's prefix.

        Args:
            image: a path, the bytes of a file, a PIL image, or an array `[H, W]` or `[H, W, 1..4]`.

        Raises:
            DataError: it cannot be read.
        """
        clock = Stopwatch(self.device)
        with clock.stage("read"):
            loaded = load_image(image)
            key = self._scenes.key(loaded)
        known = self._scenes.get(key)
        if known is not None:
            self._scene = known
            return
        with clock.stage("preprocess"):
            inputs = preprocess(loaded, **self.model.vision.tower_input).to(self.device)
        with self._computing():
            features = self.model.encode_image(inputs, clock)
        self._set(features, loaded, clock)
        self._scenes.put(key, self._require_scene())

    def set_features(self, features: ImageFeatures) -> None:
        """Takes an image's features instead of the image, from a cache for instance."""
        self._set(features, None, Stopwatch(self.device))

    def _set(self, features: ImageFeatures, image: Image.Image | None, clock: Stopwatch) -> None:
        with self._computing():
            features = features.to(self.device, torch.float32)
            self._scene = build_scene(self.model, self.encoder, features, image, clock)

    @overload
    def segment(self, query: str, *, threshold: float | None = None) -> Segmentation: ...
    @overload
    def segment(self, query: list[str], *, threshold: float | None = None) -> list[Segmentation]: ...

    def segment(self, query: str | list[str], *, threshold: float | None = None) -> Segmentation | list[Segmentation]:
        """Finds what a sentence names. The decision is scored, no words are generated: the fast way.

        Args:
            query: a phrase or question, or several, which are answered independently in shared forward passes.
            threshold: instead of the segmenter's own.

        Returns:
            One segmentation, with one mask or none; a list where `query` is one. Timings of a batch are shared evenly.

        Raises:
            DataError: no image is set, the threshold is no number, or a query is empty, too long, or holds a
                reserved token.
        """
        if not isinstance(query, str):
            return self._segment(query, threshold)
        return self._segment([query], threshold)[0]

    def _segment(self, queries: list[str], threshold: float | None) -> list[Segmentation]:
        threshold = self._checked(threshold)
        scene, clock = self._require_scene(), Stopwatch(self.device)
        if not queries:
            return []
        packs = pack_queries(self.encoder, scene, queries, self._check_length)
        with self._computing():
            with clock.stage("language_model"):
                outputs = [score_queries(self.model, self.encoder, scene, pack) for pack in packs]
            scores = torch.cat([output[1] for output in outputs]).tolist()  # a GPU is waited for once, not each time
            exists = [score >= threshold for score in scores]
            accepted = [row for row, found in enumerate(exists) if found]
            head = HeadOutput(
                torch.cat([output[0].superpixel_logits for output in outputs]),
                torch.cat([output[0].prompt_embeddings for output in outputs]),
            ).select(torch.tensor(accepted, dtype=torch.int64, device=self.device))
            masks, mask_scores = decode_masks(self.model, self._decoder, scene, head, clock)
        timings = scene.timings | {name: time / len(queries) for name, time in clock.milliseconds.items()}
        chosen = head.superpixel_logits.sigmoid().cpu()
        results, row = [], 0
        for query, score, found in zip(queries, scores, exists, strict=True):
            rows = slice(row, row + found)
            answer = compose_answer(query, exists=found)
            results.append(
                self._result(scene, query, answer, score, chosen[rows], masks[rows], mask_scores[rows], timings)
            )
            row += found
        return results

    def chat(
        self,
        messages: Sequence[dict[str, Any]],
        *,
        max_new_tokens: int = 64,
        threshold: float | None = None,
    ) -> Segmentation:
        """Answers in the language model's own words, with a mask for every [SEG] it says.

        Args:
            messages: `{"role": "user" | "assistant", "content": str}` in turn, ending with the user's question. An
                assistant's message may say `"exists": bool`, which restores the decision its answer was given with.
            max_new_tokens: where the answer stops at the latest.
            threshold: instead of the segmenter's own.

        Returns:
            The answer to the last question. After others, decision and its one mask are those of that question alone.
            `score` is 0 where the answer points at nothing and rejects nothing.

        Raises:
            DataError: no image is set, threshold or length make no sense, or the messages are malformed, too long,
                or hold a reserved token.
        """
        threshold = self._checked(threshold)
        if max_new_tokens < 1:
            raise DataError(f"max_new_tokens is {max_new_tokens}; an answer has at least one token")
        scene, clock = self._require_scene(), Stopwatch(self.device)
        turns = turns_of(messages)
        question = turns[-1].question
        for turn in turns:
            check_question(turn.question)
        text = self.encoder.encode([turns], len(scene.tokens.tokens)).to(self.device)
        self._check_length(question, len(text.input_ids) + max_new_tokens)
        with self._computing():
            with clock.stage("language_model"):
                alone, known = self._alone(scene, question) if len(turns) > 1 else (None, None)
                generated = generate(
                    self.model,
                    text.input_ids,
                    cache=scene.copy_cache(),
                    regions=scene.regions,
                    prefix_length=scene.prefix_length,
                    threshold=threshold,
                    decide=is_referring(question),
                    max_new_tokens=max_new_tokens,
                    known=known,
                )
                if alone is None:
                    head = self.model.head(generated.seg_hidden_states, generated.words, scene.regions)
                    head = choose_superpixels(scene, head)
                else:
                    found = min(1, len(generated.seg_hidden_states))
                    head = alone.select(torch.arange(found, device=self.device))
            masks, mask_scores = decode_masks(self.model, self._decoder, scene, head, clock)
        answer = generated.text
        if generated.decided:
            answer = agreeing_answer(answer, question, exists=len(masks) > 0)
        timings = scene.timings | clock.milliseconds
        chosen = head.superpixel_logits.sigmoid().cpu()
        return self._result(scene, question, answer, generated.score, chosen, masks, mask_scores, timings)

    def _result(
        self,
        scene: Scene,
        query: str,
        answer: str,
        score: float,
        superpixel_scores: Tensor,
        masks: Tensor,
        mask_scores: Tensor,
        timings: dict[str, float],
    ) -> Segmentation:
        return Segmentation(
            query=query,
            answer=answer,
            exists=len(masks) > 0,
            score=score,
            masks=masks,
            boxes=mask_boxes(masks),
            mask_scores=mask_scores,
            superpixels=scene.superpixels,
            superpixel_scores=superpixel_scores,
            num_visual_tokens=len(scene.tokens.tokens),
            timings=timings,
        )

    def _alone(self, scene: Scene, question: str) -> tuple[HeadOutput, float]:
        """What a question points at and P(that exists), without what was said before it.

        That is what was trained and calibrated: after an earlier rejection nearly everything would be found,
        and somewhere else.
        """
        packs = pack_queries(self.encoder, scene, [question], self._check_length)
        head, scores = score_queries(self.model, self.encoder, scene, packs[0])
        return head, float(scores[0])

    def _checked(self, threshold: float | None) -> float:
        threshold = self.threshold if threshold is None else threshold
        if math.isnan(threshold):
            raise DataError("the threshold is nan; give a number that probabilities can be compared with")
        return threshold

    def _check_length(self, query: str, length: int) -> None:
        longest = getattr(self.model.mllm.causal_lm.config.get_text_config(), "max_position_embeddings", None)
        if longest is not None and length > longest:
            raise DataError(f"the question {query[:40]!r}… needs {length} tokens; the language model reads {longest}")

    def _require_scene(self) -> Scene:
        if self._scene is None:
            raise DataError("no image is set: call set_image first")
        return self._scene

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """Without gradient, in eval mode, and alone: the model holds the visual tokens of one image at a time."""
        with self._lock, torch.no_grad():
            training = self.model.training
            if training:
                self.model.eval()
            try:
                yield
            finally:
                if training:
                    self.model.train()

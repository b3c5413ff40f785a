"""Stage 6: from the language model's hidden states to prompts for SAM and to P(the target exists).

N [SEG] tokens, M decisions, S superpixels, C patch-feature channels, G geometry values, D LLM width, d head width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mllmseg.config import HeadConfig
from mllmseg.constants import SAM_EMBEDDING_DIM
from mllmseg.models.head_inputs import Geometry, Sentence, Words

# Prior logits are painted within ±this value: SAM's mask prompts are trained on logits of about this range.
PRIOR_LIMIT = 12.0
# A superpixel that is in or out is so by at least this logit, lest SAM's decoder speckle what hangs in the balance.
CHOICE_MARGIN = 1.0
# Cosines of superpixels and words are multiplied by this before they compete in a softmax.
LEXICON_SHARPNESS = 10.0
# A superpixel that shows something else loses at most this much: the vocabulary may lack what is asked for.
MAX_UNLIKENESS = 8.0


@dataclass(frozen=True)
class HeadOutput:
    """What SAM's decoder is prompted with.

    Attributes:
        superpixel_logits: `[N, S]` how much each superpixel belongs to the target.
        prompt_embeddings: `[N, 256]` SAM's sparse prompt.
    """

    superpixel_logits: Tensor
    prompt_embeddings: Tensor

    def select(self, rows: Tensor) -> HeadOutput:
        """The rows with these indices, or where a mask is true."""
        return HeadOutput(self.superpixel_logits[rows], self.prompt_embeddings[rows])


@dataclass(frozen=True)
class Regions:
    """The head's view of the superpixels.

    Attributes:
        tokens: `[S, d]` features, geometry and what the language model made of each, in one vector.
        lexicon: `[S, d]` what each superpixel shows, in the space that words are projected to; unit length.
        rivals: `[S]` logsumexp of each superpixel's similarities to all that it might show instead.
    """

    tokens: Tensor
    lexicon: Tensor
    rivals: Tensor


class SegHead(nn.Module):
    """Prompt embedding, superpixel pointer and existence from hidden states of the language model.

    The pointer lets a query token and the superpixels attend to each other, so that "the leftmost dog" can compare
    dogs; a superpixel is described by its pooled patch features, its geometry and what the language model made of it.

    The words of the question take part in that attention. The hidden state says what is asked for, but hardly where:
    those of "the dog on the left" and "on the right" differ by two percent of their length.

    The query also looks up the words it is about: it attends to the word embeddings of the question, and what it reads
    there is matched with the superpixels' lexicon, patch features projected into the space of words. Word embeddings
    are where the language model already knows that a puppy is a dog, so this learns from few images. A match counts
    against its rivals: the words of a vocabulary and one learned vector for "nothing with a name". Else most of the
    background would look like something.

    Args:
        config: sizes.
        llm_size: D.
        feature_size: C.
        geometry_size: G.
        place_size: how many of the geometry values say where a region is; the others say what shape it has.
        vocabulary: `[K, D]` word embeddings of the names that compete for a superpixel; K may be 0.
    """

    def __init__(
        self,
        config: HeadConfig,
        *,
        llm_size: int,
        feature_size: int,
        geometry_size: int,
        place_size: int,
        vocabulary: Tensor,
    ) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_size
        # Without norms of their own, what is alike in all regions and all questions drowned what tells left from right:
        # 0.4 % of the variance of a region, 2 % of the length of a hidden state.
        norm = nn.LayerNorm if config.balanced else nn.Identity
        self.query = nn.Sequential(
            nn.LayerNorm(llm_size), nn.Linear(llm_size, width), nn.GELU(), nn.Linear(width, width), norm(width)
        )
        self.kind = nn.Embedding(2, width)  # 0: asked at a [SEG], 1: asked at a decision
        self.feature = nn.Sequential(nn.LayerNorm(feature_size), nn.Linear(feature_size, width), norm(width))
        self.visual = nn.Sequential(nn.LayerNorm(llm_size), nn.Linear(llm_size, width), norm(width))
        self.geometry = (
            Geometry(geometry_size, place_size, width) if config.balanced else nn.Linear(geometry_size, width)
        )
        self.region_norm = nn.LayerNorm(width)
        self.lexicon = nn.Sequential(
            nn.LayerNorm(feature_size),
            nn.Linear(feature_size, 2 * width),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(2 * width, width),
        )
        self.background = nn.Parameter(torch.randn(width))
        self.word = nn.Sequential(nn.LayerNorm(llm_size), nn.Linear(llm_size, width))
        self.word_query = nn.Sequential(nn.LayerNorm(llm_size), nn.Linear(llm_size, width))
        self.word_key = nn.Sequential(nn.LayerNorm(llm_size), nn.Linear(llm_size, width))
        self.read_word = nn.Linear(width, width)
        self.likeness = nn.Linear(1, width, bias=False)
        self.likeness_weight = nn.Parameter(torch.tensor(1.0))
        self.modulate = nn.Linear(width, 2 * width)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, config.num_heads, 2 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(config.num_layers)
        )
        self.sentence = Sentence(llm_size, width) if config.sentence else None
        self.norm = nn.LayerNorm(width)
        self.score = nn.Linear(width, 1)
        self.exists = nn.Linear(width + 1, 1)
        self.prompt = nn.Sequential(nn.Linear(2 * width, width), nn.GELU(), nn.Linear(width, SAM_EMBEDDING_DIM))
        # Above one: until the prompt is learned, the union of superpixels is the better half of the mask.
        self.prior_weight = nn.Parameter(torch.tensor(3.0))
        self.register_buffer("calibration", torch.tensor([1.0, 0.0]))
        # Read from the frozen language model whenever the model is built, so no checkpoint holds it.
        self.register_buffer("vocabulary", vocabulary.float().clone(), persistent=False)
        nn.init.zeros_(self.modulate.weight)
        nn.init.zeros_(self.modulate.bias)

    def regions(self, features: Tensor, geometry: Tensor, visual_hidden: Tensor) -> Regions:
        """Describes superpixels: `[S, C]`, `[S, G]`, `[S, D]` → tokens and lexicon."""
        tokens = self.region_norm(self.feature(features) + self.geometry(geometry) + self.visual(visual_hidden))
        lexicon = self.look_up(features)
        return Regions(tokens, lexicon, self.name_logits(lexicon).logsumexp(dim=-1))

    def look_up(self, features: Tensor) -> Tensor:
        """`[S, C]` features → `[S, d]` lexicon, of unit length."""
        return F.normalize(self.lexicon(features), dim=-1)

    def name_logits(self, lexicon: Tensor) -> Tensor:
        """`[S, d]` lexicon → `[S, K + 1]`: how much each superpixel shows each name of the vocabulary, or none."""
        names = torch.cat([self.name(self.get_buffer("vocabulary")), F.normalize(self.background, dim=0)[None]])
        return LEXICON_SHARPNESS * lexicon @ names.T

    def forward(self, seg_hidden_states: Tensor, words: Words, regions: Regions) -> HeadOutput:
        """`[N, D]` hidden states at [SEG], the words before them, and the regions → prompts."""
        query, superpixels, logits = self._point(seg_hidden_states, words, regions, kind=0)
        if not self.config.pointer:
            logits = logits * 0
        weights = logits.sigmoid()
        context = (weights[..., None] * superpixels).sum(1) / weights.sum(1, keepdim=True).clamp(min=1e-3)
        return HeadOutput(logits, self.prompt(torch.cat([query, context], dim=-1)))

    def existence(
        self, decision_hidden_states: Tensor, words: Words, regions: Regions, margin: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The evidence that the target exists: what the language model says, and whether a superpixel fits.

        Args:
            decision_hidden_states: `[M, D]` at the token before the decision.
            words: the M questions.
            regions: the superpixels.
            margin: `[M]` the language model's own logit of [SEG] minus [REJ].

        Returns:
            `[M]` uncalibrated logits, and `[M, S]` the superpixel logits they were drawn from.
        """
        query, _, logits = self._point(decision_hidden_states, words, regions, kind=1)
        best = logits.amax(dim=1, keepdim=True)
        return margin + self.exists(torch.cat([query, best], dim=-1))[:, 0], logits

    def name(self, names: Tensor) -> Tensor:
        """`[K, D]` word embeddings → `[K, d]` in the space of the lexicon."""
        return F.normalize(self.word(names), dim=-1)

    def probability(self, exist_logits: Tensor) -> Tensor:
        """`[M]` uncalibrated logits → calibrated P(the target exists) (Platt scaling, fitted on held-out photos)."""
        scale, bias = self.get_buffer("calibration").unbind()
        return (exist_logits * scale + bias).sigmoid()

    def _point(
        self, hidden_states: Tensor, words: Words, regions: Regions, *, kind: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        meaning = self._read(hidden_states, words)
        query = self.query(hidden_states) + self.kind.weight[kind] + self.read_word(meaning)
        sentence = None
        if self.sentence is not None:
            sentence, gist = self.sentence(words)
            query = query + gist
        likeness = LEXICON_SHARPNESS * F.normalize(meaning, dim=-1) @ regions.lexicon.T - regions.rivals  # [N, S]
        likeness = likeness.clamp(min=-MAX_UNLIKENESS)
        gain, shift = self.modulate(query)[:, None].chunk(2, dim=-1)
        likeness_code = likeness[..., None] / MAX_UNLIKENESS * self.likeness.weight[:, 0]
        tokens = torch.cat([query[:, None], regions.tokens * (1 + gain) + shift + likeness_code], dim=1)
        count = tokens.shape[1]
        padding = None
        if sentence is not None:
            tokens = torch.cat([tokens, sentence], dim=1)
            padding = F.pad(~words.mask, (count, 0), value=False) if len(tokens) else None
        for layer in self.layers:
            tokens = layer(tokens, src_key_padding_mask=padding)
        tokens = self.norm(tokens[:, :count])
        query, superpixels = tokens[:, 0], tokens[:, 1:]
        match = torch.einsum("nd,nsd->ns", query, superpixels) / query.shape[-1] ** 0.5
        return query, superpixels, match + self.score(superpixels)[..., 0] + self.likeness_weight * likeness

    def _read(self, hidden_states: Tensor, words: Words) -> Tensor:
        """`[N, d]`: the words a query is about, mixed by attention."""
        keys = self.word_key(words.embeddings)
        logits = torch.einsum("nd,nld->nl", self.word_query(hidden_states), keys) / keys.shape[-1] ** 0.5
        weights = logits.masked_fill(~words.mask, -torch.inf).softmax(-1)
        return torch.einsum("nl,nld->nd", weights, self.word(words.embeddings))


def maximise_expected_iou(superpixel_logits: Tensor, areas: Tensor) -> Tensor:
    """Shifts each row of logits so that just those superpixels are positive whose union has the best expected IoU.

    A threshold of one half maximises accuracy, not overlap: where the model is unsure, the best mask holds what is
    less likely than not, and it is never empty. With the regions of a row taken as independent, E[I] / E[U] of the k
    most probable ones is read off cumulative sums (Nowozin, CVPR 2014, on expected intersection over union).

    Args:
        superpixel_logits: `[N, S]`.
        areas: `[S]` pixels.

    Returns:
        `[N, S]`, in the same order within each row, and at least `CHOICE_MARGIN` from zero.
    """
    ordered, order = superpixel_logits.float().sort(dim=1, descending=True)
    weights = (areas.float() / areas.sum())[order]
    expected = weights * ordered.sigmoid()
    intersection = expected.cumsum(1)
    union = weights.cumsum(1) + expected.sum(1, keepdim=True) - intersection
    last = (intersection / union).argmax(1, keepdim=True)
    below = torch.cat([ordered, ordered[:, -1:] - 2], dim=1).gather(1, last + 1)
    shifted = superpixel_logits - (ordered.gather(1, last) + below) / 2
    return shifted + shifted.sign() * CHOICE_MARGIN


def paint(superpixel_logits: Tensor, label_map: Tensor, size: int) -> Tensor:
    """Paints `[N, S]` logits onto the `[h, w]` label map → `[N, 1, size, size]` low-res mask logits.

    The padding outside the valid window is painted as surely not the target.
    """
    height, width = label_map.shape
    canvas = superpixel_logits.new_full((len(superpixel_logits), 1, size, size), -PRIOR_LIMIT)
    canvas[:, 0, :height, :width] = superpixel_logits.clamp(-PRIOR_LIMIT, PRIOR_LIMIT)[:, label_map]
    return canvas

"""Whether a mask shows what a phrase says: against phrases that say the contrary, its pixels, and looked at alone."""

from __future__ import annotations

import numpy as np
from PIL import Image

from mllmseg.agent import regions
from mllmseg.agent.phrases import Phrase, contrasts, parse_phrase
from mllmseg.agent.regions import Mask, Pixels
from mllmseg.agent.schemas import Verdict
from mllmseg.agent.session import MaskRecord, Session

# A contrary phrase disproves a mask where it means about the same region and is more probable by this much.
SAME_REGION = 0.5
RIVAL_MARGIN = 0.1
# Below this overlap, what a phrase means in the whole picture is something else than the mask.
ELSEWHERE = 0.1
# Scores in a batch differ by so much from those of single queries.
ROUNDING = 1e-3
# A thing of a colour shows at least so much of it, or of what it may look like in shade.
OFF_COLOUR = 0.1
# On a cut-out region the model is out of its depth: only a plain no counts.
DOUBT = 0.1


def judge(session: Session, record: MaskRecord, query: str, *, closely: bool) -> Verdict:
    """The tool `verify`.

    Args:
        session: whose current picture the mask is of.
        record: the mask; not empty.
        query: what it should show.
        closely: also look at the masked region alone.
    """
    segmenter = session.picture.segmenter
    phrase = parse_phrase(query)
    # At threshold 0 every phrase points at something: a rival counts only where it points at the same region.
    # Of colours only the one that the region has is worth asking for.
    pixels = np.array(session.picture.image)
    seen = regions.colour_name(pixels, record.mask)
    own, *others = segmenter.segment([query, *contrasts(phrase, [seen])], threshold=0.0)
    rivals = {
        item.query: round(item.score, 6)
        for item in others
        if regions.iou(item.union.cpu().numpy(), record.mask) >= SAME_REGION
    }
    best = max(rivals, key=lambda name: rivals[name], default="")
    rival = best if best and rivals[best] >= own.score + RIVAL_MARGIN else ""
    probability = None
    if closely:
        closer = segmenter.fork()
        closer.set_image(masked_crop(session.picture.image, record.mask))
        # Alone it is on no side of anything, so only the thing and its own attributes are asked for.
        alone = " ".join(word for word in ("the", *phrase.adjectives, phrase.noun) if word)
        probability = round(closer.segment(alone, threshold=0.0).score, 6)
    overlap = regions.iou(own.union.cpu().numpy(), record.mask)
    threshold = segmenter.threshold if session.threshold is None else session.threshold
    colour = seen if _is_off_colour(pixels, record.mask, phrase) else ""
    fits = (
        not rival
        and not colour
        and own.score >= threshold - ROUNDING
        and overlap >= ELSEWHERE
        and (probability is None or probability >= DOUBT)
    )
    return Verdict(
        mask=record.id,
        query=query,
        fits=fits,
        score=round(own.score, 6),
        overlap=round(overlap, 6),
        probability=probability,
        rivals=rivals,
        rival=rival,
        colour=colour,
    )


def _is_off_colour(pixels: Pixels, mask: Mask, phrase: Phrase) -> bool:
    """Whether hardly anything of a mask has a colour that the phrase names."""
    named = {regions.colour_key(word) for word in phrase.adjectives} & regions.COLOURS.keys()
    return any(regions.colour_share(pixels, mask, colour) < OFF_COLOUR for colour in named)


def masked_crop(image: Image.Image, mask: Mask) -> Image.Image:
    """The masked region alone on grey, with a margin of a tenth of its size."""
    x, y, width, height = regions.bounding_box(mask)
    pixels = np.where(mask[..., None], np.array(image), np.uint8(128)).astype(np.uint8)
    left, top = max(0, x - width // 10), max(0, y - height // 10)
    return Image.fromarray(
        np.ascontiguousarray(pixels[top : y + height + height // 10, left : x + width + width // 10])
    )

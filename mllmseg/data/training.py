"""What training reads, whatever it comes from: images, and what is asked about one at a visit.

A source lists its images and draws questions about each anew whenever it comes round. `open_source` opens one by name;
each kind has a file in `mllmseg/data/sources/`.

N [SEG] tokens, h w the valid window of SAM's low-res grid, H W the image's own size.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import logging
import pathlib
import random
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from mllmseg.config import DataConfig, SourceConfig
from mllmseg.constants import NEW_TOKENS, REJ_TOKEN, SEG_TOKEN
from mllmseg.data.convert import write_whole
from mllmseg.data.datasets.coco_mini import Box, Photo
from mllmseg.data.masks import Size
from mllmseg.data.referring import known_datasets
from mllmseg.errors import ConfigError, DataError
from mllmseg.registry import Registry, did_you_mean
from mllmseg.structures import Turn

log = logging.getLogger(__name__)

# The text of a longer question is not repeated in its answer.
MAX_QUOTED_WORDS = 12
WRAPPED_SHARE = 0.3  # of the phrases are put into one of these
WRAPPINGS = ("Segment {x}.", "Find {x}.", "Point at {x}.", "Show me {x}, please.", "Please mark {x}.")
CAPTION_QUESTIONS = (
    "Describe the picture.",
    "What is in this picture?",
    "What do you see?",
    "Describe this image in one sentence.",
)


@dataclass(frozen=True)
class TrainingImage:
    """One image of a run.

    Attributes:
        id: unique in the run, such as `refcoco:train/COCO_train2014_000000000042.jpg`; messages name it.
        path: its file, on the disk or in a shard (`train-000.tar/000017.jpg`).
        source: which of the run's sources.
        index: which of the source's images.
        size: (height, width) where the labels tell.
        view_of: the id of the image that this one is cut out of.
    """

    id: str
    path: pathlib.Path
    source: int
    index: int
    size: Size | None = None
    view_of: str | None = None

    @property
    def file_name(self) -> str:
        """A name for files about this image: no other image of any source has it."""
        readable = re.sub(r"[^\w.-]+", "_", self.path.stem)[-60:]
        return f"{readable}-{hashlib.sha256(self.id.encode()).hexdigest()[:10]}"


@dataclass(frozen=True)
class View:
    """What drawing needs to know of an image's features.

    Attributes:
        grid: (h, w) of the label map.
        size: (H, W) of the image.
        estimated: id → `[h, w]` bool: masks that SAM estimated from the boxes a source asked for.
    """

    grid: Size
    size: Size
    estimated: Mapping[int, Tensor]


@dataclass(frozen=True)
class Sample:
    """Conversations about one image.

    Attributes:
        branches: the conversations.
        masks: `[N, h, w]` bool, one per [SEG] of the answers, in order; mirrored where `flipped`.
        exists: for each [SEG] or [REJ] that opens an answer, in order, which it is.
        flipped: whether the features must be mirrored.
    """

    branches: tuple[tuple[Turn, ...], ...]
    masks: Tensor
    exists: tuple[bool, ...]
    flipped: bool = False


class TrainingSource(Protocol):
    """One source; `name` is what the configuration calls it."""

    name: str

    @property
    def images(self) -> Sequence[TrainingImage]:
        """All of them, in an order that never changes."""

    @property
    def stages(self) -> frozenset[str]:
        """Those that it has something for."""

    @property
    def categories(self) -> Sequence[str]:
        """The names its labels may bear; empty where it has no such labels."""

    def boxes(self, image: TrainingImage) -> dict[int, Box]:
        """Boxes (x, y, width, height) whose masks SAM is to estimate, by an id of the source's own."""

    def labelled(self, image: TrainingImage, view: View) -> tuple[Photo, dict[int, Tensor]] | None:
        """The labels that say what each superpixel shows, and the instances' `[h, w]` masks; None without any."""

    def draw(self, image: TrainingImage, view: View, rng: random.Random, data: DataConfig, *, stage: str) -> Sample:
        """Fresh questions and answers.

        Raises:
            DataError: the image's labels are broken, or leave nothing to ask.
        """


class _FiledError(DataError):
    """Bad data that was named where it was found: whoever reads the image around it has nothing to add."""


class BadSamples:
    """What is wrong with the data: an error at once, or a list for the end. Threads may share it."""

    def __init__(self, *, skip: bool) -> None:
        self.skip = skip
        self.found: dict[str, str] = {}
        self._lock = threading.Lock()

    def add(self, ident: str, error: DataError) -> None:
        """Files a bad image or label. Raises it, named, where bad ones are not to be skipped."""
        if not self.skip:
            if isinstance(error, _FiledError):
                raise error
            hint = "repair or remove it, or leave such ones out with data.on_bad_sample=skip"
            told = str(error)
            raise _FiledError(f"{told if told.startswith(ident) else f'{ident}: {told}'}; {hint}") from error
        with self._lock:
            if ident not in self.found:
                self.found[ident] = str(error)
                log.warning("left out: %s: %s", ident, error)

    def save(self, path: pathlib.Path) -> None:
        """Writes `{"id", "problem"}`, a line each."""
        lines = [json.dumps({"id": ident, "problem": problem}) for ident, problem in sorted(self.found.items())]
        write_whole(path, (line + "\n" for line in lines))

    def report(self) -> str:
        """How many were left out, and the first few, in one line; empty for none."""
        if not self.found:
            return ""
        first = ", ".join(sorted(self.found)[:10])
        return f"{len(self.found)} bad samples were left out: {first}{', …' if len(self.found) > 10 else ''}"


@dataclass(frozen=True)
class Opening:
    """What a source is opened with.

    Attributes:
        config: its settings.
        name: what the run calls it: a source named twice gets a number.
        what: what stands behind the colon of its name, a split or a file.
        root: the folder it lies in, or None.
        number: which source of the run it is.
        bad: where to file what is wrong with it.
    """

    config: SourceConfig
    name: str
    what: str
    root: pathlib.Path | None
    number: int
    bad: BadSamples

    def images(self, found: Sequence[tuple[str, pathlib.Path, Size | None]]) -> tuple[TrainingImage, ...]:
        """The run's images of (key, path, size), as many as the settings allow."""
        return tuple(
            TrainingImage(f"{self.name}/{key}", path, self.number, index, size)
            for index, (key, path, size) in enumerate(found[: self.config.photos])
        )


SOURCES: Registry[Callable[[Opening], TrainingSource]] = Registry("source of training data")
_FAMILIES = ("coco_mini", "referring", "records", "webdataset")


def open_source(config: SourceConfig, number: int, data: DataConfig, bad: BadSamples) -> TrainingSource:
    """Opens a source by its name.

    Raises:
        ConfigError: there is no such source, or it has nothing for the stages asked for.
        DataError: its files are missing or broken, or none of its images is left.
    """
    for family in _FAMILIES:
        importlib.import_module(f"mllmseg.data.sources.{family}")
    kind, _, what = config.name.partition(":")
    datasets = known_datasets()
    if kind not in SOURCES and kind not in datasets:
        raise ConfigError(f"data.sources: unknown '{config.name}': {did_you_mean(kind, [*SOURCES, *datasets])}")
    folder = config.root if config.root is not None else data.root
    root = None if folder is None else pathlib.Path(folder)
    again = sum(item.name == config.name for item in data.sources[:number])
    name = f"{config.name} ({again + 1})" if again else config.name  # one dataset in two folders has equal image ids
    opening = Opening(config, name, what, root, number, bad)
    source = SOURCES.get(kind if kind in SOURCES else REFERRING)(opening)
    if not source.images:
        raise DataError(f"{config.name}: no image is left to train on{': ' if bad.found else ''}{bad.report()}")
    idle = set(config.stages) - source.stages
    if idle:
        raise ConfigError(f"data.sources: '{config.name}' has nothing for {sorted(idle)}, only {sorted(source.stages)}")
    return source


REFERRING = "referring"


def shrink(mask: npt.NDArray[Any], grid: Size) -> Tensor:
    """`[H, W]` 0/1 → `[h, w]` bool: what is at least half covered, or, of a target that would vanish, the most."""
    covered = F.interpolate(torch.from_numpy(np.ascontiguousarray(mask))[None, None].float(), size=grid, mode="area")
    found: Tensor = covered[0, 0] >= min(0.5, float(covered.max()))
    return found & (covered[0, 0] > 0)


def stacked(masks: Sequence[Tensor], view: View, *, flipped: bool = False) -> Tensor:
    """`[N, h, w]` bool, mirrored where asked."""
    result = torch.stack(list(masks)) if masks else torch.zeros(0, *view.grid, dtype=torch.bool)
    return result.flip(-1) if flipped else result


def ask(text: str, rng: random.Random) -> str:
    """A phrase as it stands or, now and then, in a sentence; what is a sentence already stays."""
    text = text.strip()
    if text.endswith((".", "?", "!")) or rng.random() >= WRAPPED_SHARE:
        return text
    return rng.choice(WRAPPINGS).format(x=text)


def answer(text: str, *, exists: bool, words: str = "") -> str:
    """What to say about a sentence: the decision, then `words`, else a statement of the decision."""
    token = SEG_TOKEN if exists else REJ_TOKEN
    if words:
        return f"{token} {words}"
    short = len(text.split()) <= MAX_QUOTED_WORDS
    if exists:
        return f"{token} This is what fits “{text.strip()}”." if short else f"{token} This is what fits."
    return f"{token} I see nothing here that fits{f' “{text.strip()}”' if short else ''}."


def check_text(text: Any, what: str) -> str:
    """The text, without blanks around it. Raises DataError where it is none, empty, or holds a reserved token."""
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"{what} must be a text that is not empty, not {text!r:.80}")
    reserved = [token for token in NEW_TOKENS if token in text]
    if reserved:
        raise DataError(f"{what} {text!r:.80} holds {', '.join(reserved)}, which has a meaning of its own here")
    return text.strip()


def names_a_side(text: str) -> bool:
    """Whether what a text says changes when its picture is mirrored."""
    # Also "leftmost", "left-hand", "topleft"; that "leftover" goes too costs little.
    return re.search(r"\b(top|bottom|upper|lower)?(left|right)", text.lower()) is not None

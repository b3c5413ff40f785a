"""A made-up dataset whose images come and go, and a stand-in model whose answers depend on nothing but the question."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mllmseg.data.referring import Mask, Query
from mllmseg.errors import DataError
from mllmseg.eval.answering import Answer

SIZE = (6, 8)
# In the file's order: image, sentence, whether there is a target. No two neighbours share an image.
ROWS = (
    ("a.png", "the dog", True),
    ("b.png", "the dog", True),
    ("a.png", "the cat", False),
    ("sub/c.png", "the cow “Elsa”", True),
    ("b.png", "a bird", True),
    ("a.png", "both dogs", True),
    ("d.png", "nothing", False),
)


class MadeUp:
    """See `ReferringDataset`; targets are the left three columns."""

    name, split, source = "made-up", "val", "made-up.json"

    def __init__(self, root: Path, rows: Sequence[tuple[str, str, bool]] = ROWS) -> None:
        self.root = root
        self.queries = [
            Query(f"made-up/{index // 2}/{index % 2}", image, text, f"made-up/{index // 2}", has_target)
            for index, (image, text, has_target) in enumerate(rows)
        ]
        for query in self.queries:
            path = root / query.image
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", SIZE[::-1]).save(path)

    def image_path(self, query: Query) -> Path:
        path = self.root / query.image
        if not path.is_file():
            raise DataError(f"{path}: no such image")
        return path

    def target(self, query: Query) -> Mask:
        mask = np.zeros(SIZE, dtype=np.uint8)
        mask[:, :3] = bool(query.has_target)
        return mask


class Fake:
    """Answers from a hash of image and sentence; remembers what it was asked, and gives up after `patience` images."""

    def __init__(self, patience: int | None = None) -> None:
        self.asked: list[tuple[str, list[str]]] = []
        self.patience = patience

    def answer(self, image: Path, texts: Sequence[str]) -> Iterator[Answer]:
        if len(self.asked) == self.patience:
            raise KeyboardInterrupt
        self.asked.append((image.name, list(texts)))
        for text in texts:
            seed = hashlib.sha256(f"{image.name} {text}".encode()).digest()
            score = int.from_bytes(seed[:4]) / 2**32
            mask = torch.zeros(SIZE, dtype=torch.bool)
            mask[: 1 + seed[5] % SIZE[0], : 1 + seed[6] % SIZE[1]] = True
            yield Answer(score >= 0.4, score, f"About {text}.", mask if score >= 0.4 else None)


@pytest.fixture
def made_up(tmp_path: Path) -> MadeUp:
    return MadeUp(tmp_path / "images")


@pytest.fixture
def make_dataset(tmp_path: Path) -> Callable[..., MadeUp]:
    """`(rows)` makes a dataset of other rows in the same place."""
    return lambda rows: MadeUp(tmp_path / "images", rows)


@pytest.fixture
def fake() -> type[Fake]:
    """The stand-in's class: `fake(patience=…)`."""
    return Fake

"""Images already looked at, found again by their pixels: a repeated image costs its reading and a hash."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from PIL import Image
from torch import Tensor

from mllmseg.inference.scene import Scene


class SceneCache:
    """The scenes used last, as many as fit.

    Args:
        max_bytes: of pixels, features and language-model cache together; 0 keeps nothing.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._scenes: OrderedDict[bytes, tuple[Scene, int]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._scenes)

    @property
    def num_bytes(self) -> int:
        """What the kept scenes take."""
        return sum(size for _, size in self._scenes.values())

    def key(self, image: Image.Image) -> bytes | None:
        """A digest of an RGB image's size and pixels; None where nothing is kept."""
        if not self.max_bytes:
            return None
        return hashlib.blake2b(image.tobytes(), digest_size=16, salt=str(image.size).encode()[:16]).digest()

    def get(self, key: bytes | None) -> Scene | None:
        """The scene of a digest, which counts as used now."""
        with self._lock:
            if key is None or key not in self._scenes:
                return None
            self._scenes.move_to_end(key)
            return self._scenes[key][0]

    def put(self, key: bytes | None, scene: Scene) -> None:
        """Keeps a scene and drops the ones not used for longest; one larger than everything allowed is not kept."""
        size = sum(_bytes_of(scene))
        if key is None or size > self.max_bytes:
            return
        with self._lock:
            self._scenes[key] = scene, size
            self._scenes.move_to_end(key)
            while self.num_bytes > self.max_bytes:
                self._scenes.popitem(last=False)


def _bytes_of(value: Any) -> Iterator[int]:
    """Sizes of the tensors and images in a scene."""
    if isinstance(value, Tensor):
        yield value.numel() * value.element_size()
    elif isinstance(value, Image.Image):
        yield value.width * value.height * len(value.getbands())
    elif is_dataclass(value):
        for field in fields(value):
            yield from _bytes_of(getattr(value, field.name))
    elif hasattr(value, "layers"):  # a transformers cache
        for layer in value.layers:
            yield from _bytes_of(layer.keys)
            yield from _bytes_of(layer.values)

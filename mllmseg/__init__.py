"""mllmseg: ask a question about an image, get a mask and an answer."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mllmseg.inference.segmenter import Segmenter

# Imported by PEFT wherever it is installed, bitsandbytes warns everybody of a kernel that only few machines have.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

__version__ = "0.1.0"
__all__ = ["Segmenter", "__version__"]


def __getattr__(name: str) -> Any:
    """Import `Segmenter` on first use, so that `import mllmseg` does not load torch."""
    if name == "Segmenter":
        from mllmseg.inference.segmenter import Segmenter

        return Segmenter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

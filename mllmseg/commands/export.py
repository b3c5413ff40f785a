"""`mllmseg export`: a trained model for others, checked before it is there."""

from __future__ import annotations

import warnings
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mllmseg.errors import ConfigError


class PushFormat(StrEnum):
    """Where the folder is to be uploaded."""

    HF = "hf"


def export(
    checkpoint: Annotated[
        str,
        typer.Argument(help="A checkpoint or run folder, or a hub id.", metavar="CKPT", show_default=False),
    ],
    out: Annotated[Path, typer.Argument(help="A folder that does not exist yet.", show_default=False)],
    merge: Annotated[
        bool, typer.Option("--merge", help="Write the language model in full, with LoRA merged into it.")
    ] = False,
    adapter_only: Annotated[
        bool, typer.Option("--adapter-only", help="Write LoRA as an adapter of the language model (the default).")
    ] = False,
    push_format: Annotated[
        PushFormat | None, typer.Option(help="Add a model card, so that the folder can be uploaded as it is.")
    ] = None,
) -> None:
    """Write a trained model for `Segmenter.from_pretrained`, its language part for PEFT or transformers as well.

    What was written is loaded and asked about a drawn picture; where it does not answer as the checkpoint does, nothing
    is left behind and the exit code is 2. Prints how far apart the answers are.
    """
    if merge and adapter_only:
        raise ConfigError("--merge and --adapter-only contradict each other: choose one")
    warnings.simplefilter("ignore")  # the libraries' deprecations are no news to a user
    from mllmseg.inference import export as exporting
    from mllmseg.inference.pretrained import find_checkpoint

    found = exporting.export(find_checkpoint(checkpoint), out, merge=merge, card=push_format is PushFormat.HF)
    typer.echo(
        f"{out}: same answers; logits differ by {found.logits:.1e}, probabilities by {found.scores:.1e} "
        f"(tolerance {found.tolerance:g}), masks in {found.masks:.4%} of the pixels "
        f"(tolerance {exporting.MASK_TOLERANCE:.1%})"
    )

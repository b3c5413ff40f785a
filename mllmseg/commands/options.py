"""Options that several commands share, each written once."""

from __future__ import annotations

from typing import Annotated

import typer

LLM_KEY = "MLLMSEG_LLM_KEY"

ThresholdOption = Annotated[
    float, typer.Option(min=0, max=1, help="A target exists where its probability reaches this.")
]
DeviceOption = Annotated[str, typer.Option(help="cuda, mps, cpu, or auto for the best there is.")]
DtypeOption = Annotated[str, typer.Option(help="Of the language model: float32, bfloat16, or auto.")]
ModelOption = Annotated[
    str | None, typer.Option(help="A checkpoint folder or hub id instead of the model that comes along.")
]
LlmUrlOption = Annotated[
    str | None,
    typer.Option(help=f"Plan by a language model at this OpenAI-compatible address; its key comes from ${LLM_KEY}."),
]
LlmModelOption = Annotated[str | None, typer.Option(help="The language model's name there.")]

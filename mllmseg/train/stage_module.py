"""A stage as one module, which is what DDP and DeepSpeed wrap; and the model made ready for either."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mllmseg.models.mllmseg import MLLMSeg
from mllmseg.train.runners import Figures
from mllmseg.train.stages import Item, Stage


class StageModule(nn.Module):
    """The parts of the model that a stage runs and what it makes of them: items in, a loss out.

    Only these parts are its children: DDP need not look at, and ZeRO-3 not divide, what no step of the stage uses.
    """

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        for name in stage.modules:
            child = getattr(stage.model, name, None)
            if child is not None:
                self.add_module(name, child)
        self._stage = stage

    def forward(self, items: Sequence[Item], counts: Mapping[str, float]) -> tuple[Tensor, Figures]:
        """This part's contribution to the loss of the global batch, and what to log."""
        terms = self._stage.terms(items)
        return terms.total(self._stage.weights, counts), terms.detached()


def prepare_precision(model: MLLMSeg, precision: str) -> None:
    """Keeps frozen language-model weights in the training precision; what is trained stays in float32."""
    if precision == "float32":
        return
    for parameter in model.mllm.parameters():
        if not parameter.requires_grad and parameter.is_floating_point():
            parameter.data = parameter.data.to(getattr(torch, precision))


def place(model: MLLMSeg, device: torch.device, *, gradient_checkpointing: bool) -> None:
    """Moves what training runs to a device; the encoders, whose features are cached, stay where they are."""
    sam = model.vision.sam
    for part in (model.projector, model.mllm, model.head, sam.prompt_encoder, sam.mask_decoder):
        part.to(device)
    mask_decoder = getattr(model, "mask_decoder", None)
    if mask_decoder is not None:
        mask_decoder.to(device)
    if gradient_checkpointing:
        model.mllm.causal_lm.gradient_checkpointing_enable({"use_reentrant": False})

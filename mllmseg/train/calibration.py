"""Makes `score` a probability: Platt scaling of the existence logits on photos that training never saw.

Fitted with both classes weighted alike, so that the score is P(the target exists) before one knows how often people ask
for what is not there, and a threshold of one half balances the two kinds of error. What is asked in vain there is of a
category that is absent: training draws harder negatives more often than anybody asks them, to teach, and a score fitted
on these would be too low for everything else.
"""

from __future__ import annotations

import random

import torch
import torch.nn.functional as F
from torch import Tensor

from mllmseg.config import TrainConfig
from mllmseg.data.conversation import ConversationEncoder
from mllmseg.data.training import Sample, TrainingImage
from mllmseg.models.mllmseg import MLLMSeg
from mllmseg.structures import ImageFeatures
from mllmseg.train.engine import Engine
from mllmseg.train.source import TrainingData

# Few photos are held out: each is asked this many times as many questions as in training.
MORE_QUESTIONS = 2


def fit_platt(logits: Tensor, exists: Tensor) -> tuple[float, float]:
    """Scale and bias that make `sigmoid(scale * logit + bias)` fit best.

    Args:
        logits: `[M]` uncalibrated.
        exists: `[M]` bool, both values present.

    Returns:
        (scale, bias); (1, 0) where only one class is there to fit.
    """
    positive, total = int(exists.sum()), len(exists)
    if positive in (0, total):
        return 1.0, 0.0
    parameters = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    inputs, labels = logits.double(), exists.double()
    weights = torch.where(exists, total / (2 * positive), total / (2 * (total - positive))).double()
    optimizer = torch.optim.LBFGS([parameters], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(parameters[0] * inputs + parameters[1], labels, weights)
        # A faint pull towards "as it is": separable data would drive the scale to infinity.
        loss = loss + 1e-3 * (parameters[0] - 1).square()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    scale, bias = parameters.detach().tolist()
    return scale, bias


@torch.no_grad()
def existence_logits(model: MLLMSeg, config: TrainConfig, data: TrainingData, engine: Engine) -> tuple[Tensor, Tensor]:
    """Questions about the photos held out, each process its share.

    Returns:
        `[M]` uncalibrated logits and `[M]` bool, in the order of the photos.
    """
    model.eval()
    encoder = ConversationEncoder(model.mllm.tokenizer, model.config.language_model.system_prompt)
    more = {name: MORE_QUESTIONS * getattr(config.data, name) for name in ("positives", "negatives", "queries")}
    plain = config.data.model_copy(update={"flip": 0.0, "captions": 0, "hard_negatives": False, **more})

    def read(photo: TrainingImage, rng: random.Random) -> tuple[ImageFeatures, Sample]:
        cached = data.read(photo, embeddings=False)
        return cached.features.to(torch.float32), data.sample(photo, cached, rng, plain)

    found = {}
    for number in range(engine.rank, len(data.holdout), engine.processes):
        (features, sample), own = data.held_out(number, read)
        features = features.to(engine.device)
        visual = model.project(features)
        text = encoder.encode(sample.branches, len(visual.tokens)).to(engine.device)
        logits = model([features], [visual], [text]).images[0].exist_logits.float().cpu()
        if own:
            found[number] = (logits, torch.tensor(sample.exists, dtype=torch.bool))
    merged = {number: pair for part in engine.gather(found) for number, pair in part.items()}
    pairs = [(torch.zeros(0), torch.zeros(0, dtype=torch.bool)), *(merged[number] for number in sorted(merged))]
    return torch.cat([pair[0] for pair in pairs]), torch.cat([pair[1] for pair in pairs])

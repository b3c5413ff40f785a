"""How a batch is divided among processes and micro-batches, and what they say is put together again.

A sample has a place in its batch and a number in its stage, and everything about it follows from these: its photo, its
chance, its share of the loss. So the run does not depend on how many processes make it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence

import torch

from mllmseg.errors import AlignmentError, ConfigError
from mllmseg.train.engine import Engine
from mllmseg.train.runners import Figures
from mllmseg.train.steps import FIGURES, LOSSES


def share(engine: Engine, batch_size: int) -> list[range]:
    """Which places in a batch are this process's, for each micro-batch."""
    parts, processes = engine.config.accumulate, engine.processes
    return [range(engine.rank + processes * part, batch_size, processes * parts) for part in range(parts)]


def check_batch(engine: Engine, name: str, batch_size: int) -> None:
    """Raises ConfigError where a process would have a micro-batch with nothing in it, or under ZeRO-3 a shorter one.

    There each process runs each module as often as all others, or they wait for each other's pieces for ever.
    """
    needed = engine.processes * engine.config.accumulate
    if batch_size < needed or (engine.shards_model and batch_size % needed):
        raise ConfigError(
            f"{name}.batch_size is {batch_size} photos in all, but {engine.processes} processes with engine.accumulate "
            f"{engine.config.accumulate} need {'a multiple of' if engine.shards_model else 'at least'} {needed}"
        )


def seed_dropout(seed: int, stage: str, step: int, rank: int) -> None:
    """The chance of a step that no sample has alone; only dropout has any, and it differs between processes."""
    digest = hashlib.sha256(f"{seed} {stage} {step} {rank}".encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:7], "big"))


def agree(engine: Engine, own: Mapping[str, int], signal: int) -> tuple[dict[str, float], int]:
    """How often each loss counts in all processes together, and the signal that any of them got (0: none)."""
    *total, told = engine.sum([*(own.get(name, 0) for name in LOSSES), signal])
    return dict(zip(LOSSES, total, strict=True)), max(engine.gather(signal)) if told else 0


def means(engine: Engine, found: Sequence[Figures], own: Mapping[str, int]) -> dict[str, float]:
    """Sums and counts of all micro-batches of all processes, as means.

    Raises:
        AlignmentError: a loss was counted otherwise than foreseen, so that it would weigh too much or too little.
    """
    names = LOSSES + FIGURES
    sums = [sum(part.get(name, (0.0, 0))[0] for part in found) for name in names]
    counts = [sum(part.get(name, (0.0, 0))[1] for part in found) for name in names]
    for name, count in zip(LOSSES, counts, strict=False):
        if count != own.get(name, 0):
            raise AlignmentError(f"the loss '{name}' counts {count} times, but {own.get(name, 0)} were foreseen")
    total = engine.sum([*sums, *counts])
    pairs = zip(names, total[: len(names)], total[len(names) :], strict=True)
    return {name: value / count for name, value, count in pairs if count}


def suspects(engine: Engine, found: Sequence[Figures], ids: Sequence[str]) -> list[str]:
    """The photos of the micro-batches whose own losses are not finite."""
    mine = [
        ids[place]
        for part, places in zip(found, share(engine, len(ids)), strict=True)
        if not all(math.isfinite(total) for total, _ in part.values())
        for place in places
    ]
    return sorted({ident for idents in engine.gather(mine) for ident in idents})

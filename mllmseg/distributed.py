"""Which of several processes this one is, as torchrun, accelerate and their like say it in the environment."""

from __future__ import annotations

import os
from dataclasses import dataclass

from mllmseg.errors import ConfigError


@dataclass(frozen=True)
class Process:
    """One of `count` processes; `local` numbers those of one machine, which share its devices."""

    rank: int
    count: int
    local: int


def this_process() -> Process:
    """From RANK, WORLD_SIZE and LOCAL_RANK; alone where they are not set.

    Raises:
        ConfigError: they are no numbers or do not fit each other.
    """
    rank, count = os.environ.get("RANK"), os.environ.get("WORLD_SIZE")
    if rank is None or count is None:
        return Process(0, 1, 0)
    local = os.environ.get("LOCAL_RANK", rank)
    if not all(text.isdecimal() for text in (rank, count, local)) or not int(rank) < int(count):
        raise ConfigError(f"RANK={rank} WORLD_SIZE={count} LOCAL_RANK={local}: not what a launcher sets; unset them")
    return Process(int(rank), int(count), int(local))

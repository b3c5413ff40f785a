"""Reads ahead with threads, in the order asked for.

Threads are enough: what takes long (files, decoders, tensor arithmetic) leaves Python's lock to the training step.
"""

from __future__ import annotations

import collections
import itertools
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

READ_AHEAD = 2  # finished items per worker that may wait


def ordered(
    function: Callable[[Item], Result], items: Iterable[Item], *, workers: int
) -> Generator[Result, None, None]:
    """`map(function, items)`, computed ahead by `workers` threads; with 0 workers when asked for.

    Results come in the order of `items`, and an error where its item stands, after all before it. Whoever stops early
    closes the iterator, which leaves what was not begun undone.
    """
    if not workers:
        yield from map(function, items)
        return
    remaining = iter(items)
    waiting: collections.deque[Future[Result]] = collections.deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="prefetch")
    try:
        for item in itertools.islice(remaining, READ_AHEAD * workers):
            waiting.append(pool.submit(function, item))
        while waiting:
            result = waiting.popleft().result()
            for item in itertools.islice(remaining, 1):
                waiting.append(pool.submit(function, item))
            yield result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)

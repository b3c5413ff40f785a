import mmap
import time

from mllmseg.bench.measure import Case, Measurement, interleave, timed


def test_every_case_runs_once_a_round_after_one_that_does_not_count() -> None:
    calls: list[tuple[str, int]] = []
    cases = [
        Case("slow", lambda number: calls.append(("slow", number)), every=2),
        Case("fast", lambda number: calls.append(("fast", number)), share=4),
    ]
    slow, fast = interleave(cases, rounds=3)
    assert calls == [("fast", 0), ("slow", 0), ("fast", 0), ("fast", 1), ("slow", 2), ("fast", 2)]
    assert slow.rounds == (0, 2)
    assert len(fast.seconds) == len(fast.cpu_seconds) == 3


def test_ratios_are_taken_within_a_round() -> None:
    # The second round met a machine four times as slow: both suffered, the ratio did not.
    base = Measurement("base", (8.0, 32.0, 8.0), (8.0, 8.0, 8.0), (0, 1, 2), None)
    other = Measurement("other", (2.0, 8.0), (1.0, 2.0), (0, 1), None)
    assert other.ratio_to(base) == 4
    assert other.ratio_to(base, cpu=True) == 6


def touch() -> None:
    """64 MiB from the kernel: what an allocator gives may be memory that an earlier test has left to the process."""
    with mmap.mmap(-1, 64 << 20) as fresh:
        fresh[:: mmap.PAGESIZE] = b"\1" * (len(fresh) // mmap.PAGESIZE)


def test_time_and_memory_are_those_of_the_call() -> None:
    seconds, cpu_seconds, peak = timed(lambda: time.sleep(0.05))
    assert seconds >= 0.05 > cpu_seconds
    _, _, larger = timed(touch)
    assert (peak is None) == (larger is None)
    if larger is not None and peak is not None:
        assert larger > 60 << 20 > peak

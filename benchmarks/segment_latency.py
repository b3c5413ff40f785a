"""How long a question takes: the first about a photo, which pays for the photo, against the next ones.

    python benchmarks/segment_latency.py [--model PATH] [--photos DIR] [--repeat 5]

Wall-clock milliseconds in one process, medians over the photos; prints Markdown.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch

from mllmseg.inference.segmenter import Segmenter

QUERIES = ("the person", "the cat", "the cup on the left", "the largest thing", "the dog")


def main() -> None:
    """Times each photo: encoding and first query, then further queries one by one, then all of them at once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a checkpoint folder; default: the model inside the package")
    parser.add_argument("--photos", type=Path, default=Path(__file__).parent.parent / "examples")
    parser.add_argument("--repeat", type=int, default=5)
    args = parser.parse_args()
    segmenter = Segmenter.from_pretrained(args.model)
    photos = sorted(args.photos.glob("*.jpg"))
    segmenter.set_image(photos[0])  # warm-up: folding the decoder, first allocations
    segmenter.segment(QUERIES[0], threshold=0.0)
    first: list[float] = []
    following: list[float] = []
    packed: list[float] = []
    stages: dict[str, list[float]] = {}
    for photo in photos:
        start = time.perf_counter()
        segmenter.set_image(photo)
        segmenter.segment(QUERIES[0], threshold=0.0)
        first.append(time.perf_counter() - start)
        for stage, milliseconds in segmenter.timings.items():
            stages.setdefault(stage, []).append(milliseconds)
        for number in range(args.repeat):
            start = time.perf_counter()
            segmenter.segment(QUERIES[(number + 1) % len(QUERIES)], threshold=0.0)
            following.append(time.perf_counter() - start)
        start = time.perf_counter()
        segmenter.segment(list(QUERIES), threshold=0.0)
        packed.append((time.perf_counter() - start) / len(QUERIES))
    rows = [("first query on a photo", first), ("each further query", following), ("each of five at once", packed)]
    write = sys.stdout.write
    write(f"{len(photos)} photos, {torch.get_num_threads()} threads, torch {torch.__version__}, CPU; every query ")
    write("gets its mask (threshold 0).\n\n| what | median ms | share of the first |\n|---|---|---|\n")
    base = statistics.median(first)
    for name, seconds in rows:
        median = statistics.median(seconds)
        write(f"| {name} | {median * 1e3:.0f} | 1/{base / median:.1f} |\n")
    write("\n| stage of the first query | median ms |\n|---|---|\n")
    for stage, values in stages.items():
        write(f"| {stage} | {statistics.median(values):.0f} |\n")


if __name__ == "__main__":
    main()

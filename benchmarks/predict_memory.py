"""Peak memory of predicting and scoring, by the number of queries: python benchmarks/predict_memory.py

Every number of queries runs in a process of its own, with the model inside the package. One photo stands for all
images, under a name for each, and is encoded once, which is what takes long; all that grows with queries is real.
"""

from __future__ import annotations

import json
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Annotated

import torch
import typer

PHOTO = pathlib.Path(__file__).parents[1] / "examples" / "coffee.jpg"
RECTANGLE = [[60.0, 40.0, 300.0, 40.0, 300.0, 260.0, 60.0, 260.0]]
NOUNS = ("cup", "saucer", "spoon", "table", "coffee", "shadow", "handle", "cat")


class Encoded:
    """A `SegmenterAnswerer` that encodes the photo once for all images; everything after that is computed anew."""

    def __init__(self, threshold: float) -> None:
        from mllmseg.eval.answering import SegmenterAnswerer
        from mllmseg.inference.segmenter import Segmenter

        segmenter = Segmenter.from_pretrained(device="cpu")
        segmenter.set_image(PHOTO)
        features = segmenter.features
        segmenter.set_image = lambda image: segmenter.set_features(features)  # type: ignore[method-assign]
        self.inner = SegmenterAnswerer(segmenter, "scored", threshold)

    def answer(self, image: pathlib.Path, texts: Sequence[str]) -> Iterator[object]:
        """As `SegmenterAnswerer` does."""
        return self.inner.answer(image, texts)


class StandIn:
    """Paints a ragged mask for every sentence at once: all that grows with queries but the model, in a minute."""

    def __init__(self) -> None:
        self.random = torch.Generator().manual_seed(0)

    def answer(self, image: pathlib.Path, texts: Sequence[str]) -> Iterator[object]:
        """A blob of some hundred runs for each sentence."""
        from mllmseg.eval.answering import Answer

        for text in texts:
            coarse = torch.rand(1, 1, 12, 18, generator=self.random)
            blob = torch.nn.functional.interpolate(coarse, (400, 600), mode="bicubic")[0, 0]
            yield Answer(True, 0.5, text, blob > 0.6)


def measure(queries: int, per_image: int, folder: pathlib.Path, *, stand_in: bool) -> dict[str, float]:
    """Predicts and scores so many queries; peaks in MB of memory that the process held."""
    from mllmseg.data.referring import open_dataset
    from mllmseg.eval.manifest import Shard, describe
    from mllmseg.eval.prediction_run import claim, predict
    from mllmseg.eval.scoring import read_answers, score_answers

    torch.set_num_threads(1)
    images = queries // per_image
    for index in range(images):
        (folder / f"{index}.jpg").symlink_to(PHOTO)
    # In rounds over the images, so that nearly every line has to wait for its turn: the worst case.
    lines = [
        {"image": f"{index}.jpg", "text": f"the {NOUNS[round_ % len(NOUNS)]} number {round_}", "masks": [RECTANGLE]}
        for round_ in range(per_image)
        for index in range(images)
    ]
    path = folder / "questions.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    dataset = open_dataset(f"jsonl:{path}", data_root=None)
    unknown = dict.fromkeys(("checkpoint", "weights_sha256", "dtype", "device"), "")
    manifest = describe(dataset, Shard(), mode="scored", threshold=0.0, threads=1, **unknown)
    out = folder / "p.jsonl"
    claim(out, manifest, resume=False)
    answerer = StandIn() if stand_in else Encoded(threshold=0.0)
    loaded, start = peak(), time.perf_counter()
    predict(dataset, answerer, out, manifest)  # type: ignore[arg-type]
    predicted, spent = peak(), time.perf_counter() - start
    scorers = score_answers(read_answers(dataset, [out]))
    for scorer in scorers.values():
        scorer.intervals()
    return {"loaded": loaded, "predicted": predicted, "scored": peak(), "file": out.stat().st_size / 1e6, "s": spent}


def peak() -> float:
    """The most memory this process has held, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(
    queries: Annotated[list[int] | None, typer.Argument(help="How many, each in a process of its own.")] = None,
    per_image: Annotated[int, typer.Option(help="Sentences about one image.", min=1)] = 10,
    stand_in: Annotated[
        bool, typer.Option("--stand-in", help="Without the model, which takes most of the time.")
    ] = False,
    inside: Annotated[bool, typer.Option("--inside", hidden=True)] = False,
) -> None:
    """Prints a table."""
    if inside:
        assert queries is not None
        with tempfile.TemporaryDirectory() as name:
            print(json.dumps(measure(queries[0], per_image, pathlib.Path(name), stand_in=stand_in)))
        return
    print("| queries | before | after predicting | after scoring (all scorers, intervals) | file |")
    print("|---|---|---|---|---|")
    for count in queries or [1000, 4000]:
        command = [sys.executable, __file__, str(count), "--per-image", str(per_image), "--inside"]
        command += ["--stand-in"] if stand_in else []
        found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        print(
            f"| {count:,} | {found['loaded']:.0f} MB | {found['predicted']:.0f} MB | {found['scored']:.0f} MB "
            f"| {found['file']:.1f} MB |",
            flush=True,
        )


if __name__ == "__main__":
    typer.run(main)

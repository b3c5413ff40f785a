"""Evaluates a model on coco-mini's validation split: predictions, a report, and pictures where asked for."""

from __future__ import annotations

import json
import pathlib
import sys
from typing import Annotated

import typer

from mllmseg.data.datasets.coco_mini import CocoMini
from mllmseg.errors import MLLMSegError

DEFAULT_DATA = pathlib.Path("../shared/data/coco-mini")


def main(
    data: Annotated[pathlib.Path, typer.Option(help="Folder of coco-mini.")] = DEFAULT_DATA,
    split: Annotated[str, typer.Option(help="Which split.")] = "val",
    model: Annotated[str | None, typer.Option(help="Checkpoint; none for the one in the package.")] = None,
    out: Annotated[pathlib.Path, typer.Option(help="Folder for predictions and report.")] = pathlib.Path("runs/eval"),
    limit: Annotated[int | None, typer.Option(help="Only so many photos, spread evenly.", min=1)] = None,
    threshold: Annotated[float | None, typer.Option(help="Of P(the target exists).", min=0, max=1)] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, mps; none for the best.")] = None,
    pictures: Annotated[pathlib.Path | None, typer.Option(help="Save pictures there.")] = None,
    num: Annotated[int, typer.Option(help="How many pictures.", min=1)] = 24,
) -> None:
    """Predicts what `--out` does not hold yet, prints the report and writes it beside the predictions."""
    from mllmseg.eval.pictures import save_pictures
    from mllmseg.eval.predict import SegmenterPredictor
    from mllmseg.eval.provenance import COCO_MINI_PROTOCOL, claim_folder, describe_run
    from mllmseg.eval.referring import evaluate
    from mllmseg.eval.rows import read_rows
    from mllmseg.inference.pretrained import find_checkpoint
    from mllmseg.inference.segmenter import Segmenter

    dataset = CocoMini(data, split)
    checkpoint = find_checkpoint(model)
    predictor = SegmenterPredictor(Segmenter.from_pretrained(checkpoint, device=device), threshold)
    run = describe_run(
        protocol=COCO_MINI_PROTOCOL,
        data=[data / f"instances_{split}.json", data / f"expressions_{split}.jsonl"],
        checkpoint=checkpoint,
        settings={"split": split, "threshold": predictor.threshold},
    )
    claim_folder(out, run)
    path = out / "predictions.jsonl"
    report = evaluate(dataset, predictor, predictions_path=path, limit=limit, on_photo=_show_progress)
    text = f"# coco-mini {split}: {checkpoint.name}\n\n{report.markdown()}\n"
    text += f"Threshold {predictor.threshold}, protocol {run['protocol']}, code {run['revision']}, "
    text += f"weights {run['weights_sha256'][:12]}, data {run['data_sha256'][:12]}.\n"
    (out / "report.md").write_text(text, encoding="utf-8")
    (out / "report.json").write_text(json.dumps(run | {"report": report.to_dict()}, indent=2) + "\n", encoding="utf-8")
    sys.stdout.write(text)
    if pictures is not None:
        save_pictures(dataset, read_rows(path), pictures, num)


def _show_progress(done: int, total: int) -> None:
    if done % 10 == 0 or done == total:
        sys.stderr.write(f"{done}/{total} photos\n")


if __name__ == "__main__":
    try:
        typer.run(main)
    except MLLMSegError as error:
        sys.exit(f"error: {error}")

"""`mllmseg data …`: what lies where, own data from other tools' labels, leaks between sets."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mllmseg.commands.options import LLM_KEY
from mllmseg.errors import ConfigError

if TYPE_CHECKING:
    from mllmseg.data.check import DatasetReport, SplitReport

LLM_SECONDS = 120.0  # a request may take: nobody waits for the answer

data_app = typer.Typer(help="Datasets: check, convert, find leaks.", no_args_is_help=True)

DataRootOption = Annotated[
    Path | None, typer.Option("--data-root", help="The folder in which datasets lie.", show_default=False)
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON value on stdout and nothing else there.")]


@data_app.command("check")
def check(
    root: Annotated[Path | None, typer.Argument(help="The folder in which datasets lie.", show_default=False)] = None,
    data_root: Annotated[Path | None, typer.Option("--data-root", help="The same, as other commands name it.")] = None,
    dataset: Annotated[list[str] | None, typer.Option(help="Only this dataset; may be repeated.")] = None,
    masks: Annotated[bool, typer.Option("--masks", help="Draw every target too (minutes for large sets).")] = False,
    as_json: JsonOption = False,
) -> None:
    """Say what was found, where, and what is missing. Exit code 1 where something found is wrong."""
    from mllmseg.data.check import check_root

    if (root is None) == (data_root is None):
        raise ConfigError("data check: name the folder in which datasets lie, once")
    root = root or data_root
    assert root is not None

    def show_name(name: str) -> None:
        if sys.stderr.isatty():
            typer.echo(f"reading {name} …", err=True)

    reports = check_root(root, names=dataset, masks=masks, on_dataset=show_name)
    if as_json:
        typer.echo(json.dumps([report.to_json() for report in reports], ensure_ascii=False))
    else:
        for report in reports:
            _show_dataset(report, masks=masks)
        missing = [report for report in reports if report.absent]
        if missing:
            typer.echo(f"not found in {root}:")
        for report in missing:
            typer.echo(f"  {report.name}: put {report.put}")
        found, wrong = len(reports) - len(missing), sum(report.wrong for report in reports)
        typer.echo(f"{found} of {len(reports)} datasets found" + (f", {wrong} with problems" if wrong else ""))
    raise typer.Exit(1 if any(report.wrong for report in reports) else 0)


def _show_dataset(report: DatasetReport, *, masks: bool) -> None:
    if report.absent:
        return
    typer.echo(typer.style(report.name, bold=True))
    if report.problem:
        typer.echo(f"  {typer.style('broken', fg='red')}: {report.problem}")
    for source in dict.fromkeys(split.source for split in report.splits):
        typer.echo(f"  {source}")
    for split in report.splits:
        typer.echo(
            f"  {split.split:<7}{split.images:>7,} images {split.refs:>7,} refs {split.sentences:>8,} sentences: "
            f"{split.positives:,} with a target, {split.negatives:,} without"
        )
        for problem in _problems(split):
            typer.echo(f"         {typer.style(problem, fg='yellow')}")
        if split.published and not split.differences:
            typer.echo("         as published")
        if masks and not split.num_broken:
            unknown = f", {split.num_unknown:,} have no mask by design" if split.num_unknown else ""
            typer.echo(f"         every target with a mask can be drawn{unknown}")


def _problems(split: SplitReport) -> list[str]:
    problems = ["; ".join(split.differences)] if split.differences else []
    problems += split.broken
    if split.missing_images:
        problems.append(f"{split.missing_images:,} image files are missing")
    if split.num_broken > len(split.broken):
        problems.append(f"and {split.num_broken - len(split.broken):,} more targets that cannot be drawn")
    if split.num_empty:
        problems.append(f"{split.num_empty:,} targets without one pixel")
    return problems


@data_app.command("convert")
def convert(
    kind: Annotated[str, typer.Argument(help="coco (an instances file) or labelme (a JSON, or a folder of them).")],
    source: Annotated[Path, typer.Argument(help="What to read.", metavar="IN", show_default=False)],
    out: Annotated[Path, typer.Argument(help="JSONL to write.", show_default=False)],
    text: Annotated[str, typer.Option(help="The sentence; {category} becomes the category's name.")] = "{category}",
) -> None:
    """Make own data of other tools' labels: a line per image and category."""
    from mllmseg.data.convert import convert as run

    result = run(kind, source, out, text=text)
    for reason, count in result.skipped.items():
        typer.echo(f"left out: {count} {reason}", err=True)
    typer.echo(f"{out}: {result.lines} sentences about {result.images} images")


@data_app.command("leaks")
def leaks(
    train: Annotated[str, typer.Argument(help="DATASET[:SPLIT], a folder of images, or a JSON, JSONL or text file.")],
    test: Annotated[str, typer.Argument(help="The same.")],
    data_root: DataRootOption = None,
    as_json: JsonOption = False,
) -> None:
    """Name the images that are in both. Exit code 1 where there are any."""
    from mllmseg.data.leaks import find_leaks, image_names

    tested = image_names(test, data_root)
    found = find_leaks(image_names(train, data_root), tested)
    if as_json:
        typer.echo(json.dumps([{"photo": leak.photo, "train": leak.train, "test": leak.test} for leak in found]))
    else:
        for leak in found:
            typer.echo(f"{leak.photo}: {leak.train} | {leak.test}")
        typer.echo(f"{len(found)} of {len(tested)} test images are in {train}")
    raise typer.Exit(1 if found else 0)


@data_app.command("clean-riscq")
def clean_riscq(
    source: Annotated[Path, typer.Argument(help="RIS-CQ's sub_ris.json.", metavar="IN", show_default=False)],
    out: Annotated[Path, typer.Argument(help="The file to write, in the same format.", show_default=False)],
    against: Annotated[
        list[str] | None, typer.Option(help="Report images shared with this training set; may be repeated.")
    ] = None,
    data_root: DataRootOption = None,
) -> None:
    """Leave out RIS-CQ's sentences that hold talk of the model that wrote them, and report leaks."""
    from mllmseg.data.convert import write_whole
    from mllmseg.data.datasets.riscq import parse_record, read_raw, residue
    from mllmseg.data.leaks import find_leaks, image_names

    raw = read_raw(source)
    records = [parse_record(source, number, item) for number, item in enumerate(raw)]
    reasons = [residue(record.sentence) for record in records]
    for number, (record, reason) in enumerate(zip(records, reasons, strict=True)):
        if reason:
            typer.echo(f"record {number}: {reason}: {' '.join(record.sentence.split())}")
    kept = [item for item, reason in zip(raw, reasons, strict=True) if reason is None]
    trained = sum(record.file_name.startswith("train") for record in records)
    typer.echo(f"{trained} of {len(records)} images are COCO training images: a model trained on COCO has seen them")
    for name in against or []:
        found = find_leaks(image_names(name, data_root), [record.file_name for record in records])
        typer.echo(f"{len(found)} of {len(records)} images are in {name}")
    write_whole(out, [json.dumps(kept, ensure_ascii=False)])
    typer.echo(f"{out}: {len(kept)} of {len(records)} sentences")


@data_app.command("augment")
def augment(
    root: Annotated[Path, typer.Argument(help="A folder in coco-mini's format.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="The folder to make; train on it instead.", show_default=False)],
    split: Annotated[str, typer.Option(help="As in instances_SPLIT.json.")] = "train",
    views: Annotated[int, typer.Option(min=1, help="So many of each photo, at most.")] = 1,
    photos: Annotated[int | None, typer.Option(min=1, help="Only so many, those that training takes first.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same views.")] = 0,
) -> None:
    """Put cut-outs with other tones beside labelled photos, for training."""
    from mllmseg.data.augment import augment as run

    done = run(root, out, split=split, views=views, photos=photos, seed=seed, progress=True)
    typer.echo(f"{out}: {done.photos} photos and {done.views} views of them, which kept {done.sentences} sentences")


@data_app.command("paraphrase")
def paraphrase(
    source: Annotated[Path, typer.Argument(help="Own data, as synth writes it.", metavar="IN", show_default=False)],
    out: Annotated[Path, typer.Argument(help="JSONL to write.", show_default=False)],
    llm_url: Annotated[
        str, typer.Option(help=f"A language model's OpenAI-compatible address; its key comes from ${LLM_KEY}.")
    ],
    llm_model: Annotated[str, typer.Option(help="The language model's name there.")],
    seed: Annotated[int, typer.Option(help="Chooses the style of each sentence.")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Requests at once.")] = 4,
) -> None:
    """Have a language model say sentences in other words; those that mean something else are left out."""
    from mllmseg.chat_endpoint import Endpoint
    from mllmseg.data.paraphrase import paraphrase as run

    endpoint = Endpoint(llm_url, llm_model, key=os.environ.get(LLM_KEY, ""), timeout=LLM_SECONDS)
    done = run(source, out, endpoint, seed=seed, workers=workers, progress=True)
    for reason, count in done.refused.items():
        typer.echo(f"left out: {count} {reason}", err=True)
    typer.echo(f"{out}: {done.written} of {done.written + sum(done.refused.values())} sentences in other words")


@data_app.command("synth")
def synth(
    root: Annotated[Path, typer.Argument(help="A folder in coco-mini's format or COCO's.", show_default=False)],
    out: Annotated[Path, typer.Option(help="JSONL to write.", show_default=False)],
    split: Annotated[str, typer.Option(help="As in instances_SPLIT.json.")] = "train",
    per_image: Annotated[int, typer.Option(min=1, help="Sentences a photo, two in five of them without target.")] = 10,
    kinds: Annotated[str | None, typer.Option(help="Only these, with commas: attribute,relation,exclusion,…")] = None,
    even: Annotated[bool, typer.Option("--even", help="All kinds equally often, for evaluation by kind.")] = False,
    seed: Annotated[int, typer.Option(help="The same seed gives the same sentences.")] = 0,
    looks: Annotated[Path | None, typer.Option(help="Keep what is measured of pixels here, and read it again.")] = None,
    report: Annotated[Path | None, typer.Option(help="Markdown on what was generated.")] = None,
    style: Annotated[
        list[Path] | None, typer.Option(help="Sentences to compare lengths with; may be repeated.")
    ] = None,
) -> None:
    """Make sentences with exact targets, and without any, of labelled photos."""
    from mllmseg.data import synth_set
    from mllmseg.data.convert import write_whole
    from mllmseg.data.datasets.coco import find_labels
    from mllmseg.data.looks import read_looks, write_looks

    labels = find_labels(root, split)
    measured = read_looks(looks) if looks is not None and looks.is_file() else {}
    known, chosen = len(measured), None if kinds is None else [kind.strip() for kind in kinds.split(",")]
    lines = list(synth_set.generate(labels, per_image=per_image, seed=seed, kinds=chosen, even=even, looks=measured))
    if looks is not None and len(measured) > known:
        write_looks(looks, measured)
    synth_set.write_lines(out, lines, labels.images)
    typer.echo(f"{out}: {len(lines)} sentences about {len({line.photo.id for line in lines})} photos")
    if report is not None:
        command = " ".join(["mllmseg", *sys.argv[1:]])
        styles = {path.name: synth_set.read_style(path) for path in style or []}
        write_whole(report, [synth_set.report(lines, command, styles, seed)])
    typer.echo(f"images: {labels.images} (--image-root of predict)")

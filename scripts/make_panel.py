"""Renders docs/panel: what the model answers about the example photos, beside what a person says of the answers."""

from __future__ import annotations

import pathlib
import sys
import textwrap
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from PIL import Image, ImageDraw, ImageFont, ImageOps

from mllmseg.config import Config
from mllmseg.errors import MLLMSegError

if TYPE_CHECKING:
    from mllmseg.structures import Segmentation

Verdict = Literal["right", "partly", "wrong"]
FRAME = {"right": "#2e9e4f", "partly": "#e0a100", "wrong": "#d0342c", None: "#999999"}
TILE, SMALL_TILE = 300, 170  # height of a tile, in pixels
COLUMNS = 3  # of one photo's panel; the combined one has a row a photo


class PanelQuery(Config):
    """One question, whether the photo holds what it names, and what a person says of the answer."""

    query: str
    present: bool
    verdict: Verdict | None = None
    note: str = ""


class PanelPhoto(Config):
    """One photo and its questions."""

    photo: pathlib.Path
    queries: tuple[PanelQuery, ...]


class Panel(Config):
    """What `docs/panel.yaml` says; `judged`: of which weights (the digits on the page) the verdicts speak."""

    judged: str = ""
    photos: tuple[PanelPhoto, ...]


def forget_verdicts(panel: Panel) -> Panel:
    """The same questions, not judged."""
    blank = {"verdict": None, "note": ""}
    photos = [
        photo.model_copy(update={"queries": tuple(query.model_copy(update=blank) for query in photo.queries)})
        for photo in panel.photos
    ]
    return panel.model_copy(update={"photos": tuple(photos)})


def tile(image: Image.Image, caption: str, *, height: int, frame: str) -> Image.Image:
    """The picture at this height in a coloured frame, with a caption of up to three lines below."""
    width = round(image.width * height / image.height)
    scaled = ImageOps.expand(image.convert("RGB").resize((width, height)), 3, frame)
    points = max(10, height // 16)
    font, line = ImageFont.load_default(points), points + 4
    drawn = Image.new("RGB", (scaled.width, scaled.height + 3 * line + 6), "white")
    drawn.paste(scaled)
    columns = max(12, int(scaled.width / (0.52 * points)))
    text = [part for row in caption.split("\n") for part in textwrap.wrap(row, columns)]
    ImageDraw.Draw(drawn).multiline_text((2, scaled.height + 2), "\n".join(text[:3]), "black", font, spacing=3)
    return drawn


def grid(tiles: list[Image.Image], columns: int, *, gap: int = 8) -> Image.Image:
    """Tiles in rows on white."""
    width, height = max(item.width for item in tiles) + gap, max(item.height for item in tiles) + gap
    rows = -(-len(tiles) // columns)
    page = Image.new("RGB", (width * min(columns, len(tiles)) - gap, height * rows - gap), "white")
    for number, item in enumerate(tiles):
        page.paste(item, (number % columns * width, number // columns * height))
    return page


def tiles_of(image: Image.Image, photo: PanelPhoto, found: list[Segmentation], height: int) -> list[Image.Image]:
    """The photo's superpixels, then one tile a question."""
    from mllmseg.inference.visualize import overlay, superpixel_overlay

    title = f"{photo.photo.stem}\n{len(found[0].superpixels)} superpixels"
    tiles = [tile(superpixel_overlay(image, found[0].superpixels), title, height=height, frame="white")]
    for asked, item in zip(photo.queries, found, strict=True):
        says = "found" if item.exists else "not there"
        # What is not there is shown faded, so that the two decisions cannot be mistaken for each other.
        faded = Image.blend(image, Image.new("RGB", image.size, "white"), 0.5)
        picture = overlay(image, item.masks) if item.exists else faded
        caption = f"{asked.query}\n{says}, P(exists) {item.score:.2f}"
        tiles.append(tile(picture, caption, height=height, frame=FRAME[asked.verdict]))
    return tiles


def section(photo: PanelPhoto, found: list[Segmentation], picture: str) -> str:
    """One photo's part of the page."""
    lines = [
        f"## {photo.photo.stem}\n",
        f"![{photo.photo.stem}]({picture})\n",
        f"{len(found[0].superpixels)} superpixels, {found[0].num_visual_tokens} visual tokens.\n",
        "| question | in the photo | answer | P(exists) | mask, share of the photo | verdict | note |",
        "|---|---|---|---|---|---|---|",
    ]
    for asked, item in zip(photo.queries, found, strict=True):
        share = f"{item.union.float().mean():.1%}" if item.exists else "–"
        cells = [asked.query, "yes" if asked.present else "no", item.answer, f"{item.score:.2f}", share]
        cells += [asked.verdict or "", asked.note]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def summary(panel: Panel, found: list[list[Segmentation]]) -> str:
    """How many answers are right, by whether there was something to find, and what stands unjudged."""
    lines = ["| | questions | decision right | right | partly | wrong | not judged |", "|---|---|---|---|---|---|---|"]
    questions = [asked for photo in panel.photos for asked in photo.queries]
    pairs = list(zip(questions, [item for items in found for item in items], strict=True))
    for present, name in ((True, "in the photo"), (False, "not in the photo")):
        rows = [(asked, item) for asked, item in pairs if asked.present == present]
        verdicts = Counter(asked.verdict for asked, _ in rows)
        decided = sum(item.exists == present for _, item in rows)
        counts = [len(rows), decided, *(verdicts[key] for key in ("right", "partly", "wrong", None))]
        lines.append(f"| {name} | " + " | ".join(map(str, counts)) + " |")
    return "\n".join(lines) + "\n"


def main(
    panel: Annotated[pathlib.Path, typer.Option(help="Photos and questions.")] = pathlib.Path("docs/panel.yaml"),
    out: Annotated[pathlib.Path, typer.Option(help="Folder for what is written.")] = pathlib.Path("docs"),
    model: Annotated[str | None, typer.Option(help="Checkpoint; none for the one in the package.")] = None,
    threshold: Annotated[float, typer.Option(help="Of P(the target exists).", min=0, max=1)] = 0.5,
) -> None:
    """Asks every question and writes the page, a picture a photo, and one of all."""
    asked = Panel.from_yaml(panel)
    from mllmseg.data.transforms import load_image
    from mllmseg.eval.provenance import hash_checkpoint
    from mllmseg.inference.pretrained import find_checkpoint
    from mllmseg.inference.segmenter import Segmenter

    checkpoint = find_checkpoint(model)
    weights = hash_checkpoint(checkpoint)[:12]
    if asked.judged != weights:
        sys.stderr.write(f"{panel} judges weights '{asked.judged}', these are '{weights}': verdicts left out\n")
        asked = forget_verdicts(asked)
    segmenter = Segmenter.from_pretrained(checkpoint, threshold=threshold)
    (out / "panel").mkdir(parents=True, exist_ok=True)
    rows, sections, answers = [], [], []
    for photo in asked.photos:
        image = load_image(photo.photo)
        segmenter.set_image(image)
        found = segmenter.segment([item.query for item in photo.queries])
        name = f"panel/{photo.photo.stem}.jpg"
        grid(tiles_of(image, photo, found, TILE), COLUMNS).save(out / name, quality=82, optimize=True)
        rows.append(grid(tiles_of(image, photo, found, SMALL_TILE), 1 + len(found)))
        sections.append(section(photo, found, name))
        answers.append(found)
        sys.stderr.write(f"{photo.photo}: {sum(item.exists for item in found)} of {len(found)} found\n")
    grid(rows, 1, gap=4).save(out / "panel.jpg", quality=80, optimize=True)
    head = (
        "# What the model says about the example photos\n\n"
        f"Written by `python scripts/make_panel.py` from `{panel}`: do not edit. Checkpoint `{checkpoint.name}`, "
        f"weights {weights}, threshold {threshold}. Frames: green right, amber partly, red wrong, grey not yet; "
        "verdicts are a person's. *Decision right* only says that the model found something exactly where there was "
        "something to find.\n\n"
        f"{summary(asked, answers)}\n![All photos](panel.jpg)\n\n"
    )
    (out / "panel.md").write_text(head + "\n".join(sections), encoding="utf-8")


if __name__ == "__main__":
    try:
        typer.run(main)
    except MLLMSegError as error:
        sys.exit(f"error: {error}")

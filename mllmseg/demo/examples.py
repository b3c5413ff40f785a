"""Things to try: photos that anyone may use, with sentences that show what can be asked, and what is not there."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path

from PIL import Image

from mllmseg.demo.drawing import data_uri

_HERE = Path(__file__).parent
# Inside an installed wheel, else in a checkout of the project.
FOLDERS = (_HERE / "examples", _HERE.parents[1] / "examples")


@dataclass(frozen=True)
class Example:
    """A photo by its file name, what to say about it, and what that shows."""

    photo: str
    message: str
    shows: str


EXAMPLES = (
    Example("coffee.jpg", "the cup and the spoon", "several things"),
    Example("astronaut.jpg", "everything except the person", "exclusion"),
    Example("coffee.jpg", "the blue cup", "another colour"),
    Example("photographer.jpg", "is there a bicycle?", "not there"),
    Example("officer.jpg", "blur everything except the person", "an edit"),
    Example("photographer.jpg", "how big is the man?", "measuring"),
    Example("photographer.jpg", "the man on the right of the bicycle", "beside what is not there"),
    Example("coffee.jpg", "make the cup blue", "an edit by words"),
)


def photo_path(name: str) -> Path | None:
    """Where an example photo is, None where this installation has none."""
    return next((folder / name for folder in FOLDERS if (folder / name).is_file()), None)


def available() -> list[tuple[int, Example, Path]]:
    """The examples whose photos are here, each with its number."""
    found = [(number, example, photo_path(example.photo)) for number, example in enumerate(EXAMPLES)]
    return [(number, example, path) for number, example, path in found if path is not None]


def examples_html() -> str:
    """The examples as buttons."""
    items = []
    for number, example, path in available():
        with Image.open(path) as opened:
            source = data_uri(opened.convert("RGB"), side=144)
        name = escape(path.stem, quote=True)
        items.append(
            f'<button type="button" data-work="example" data-value="{number}"><img alt="Photo: {name}" src="{source}">'
            f"<span><b>{escape(example.message)}</b><small>{escape(example.shows)}</small></span></button>"
        )
    return f'<div class="examples" role="group" aria-label="Examples">{"".join(items)}</div>'

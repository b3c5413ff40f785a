"""Where datasets lie: every spelling of the public folder trees, as tables, below one `--data-root`.

The root may be LISA's `dataset/`, UniPixel's or Sa2VA's `data/`, the folder `refer_seg` itself, or a parent of these.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Sequence

from mllmseg.data.referring import NotThereError
from mllmseg.errors import DataError

# Where a tree may start below the root.
TREES = (
    "", "dataset", "datasets", "data", "lisa", "data/lisa", "glamm_data", "data/glamm_data", "Sa2VA-Training",
    "Sa2VA-Training/glamm_data", "refer/data",
)  # fmt: skip
# Where REFER's folders and images lie below a tree.
REFER_FOLDERS = ("", "refer_seg", "ref_seg")

_COCO_PARENTS = ("images/mscoco/images", "images/mscoco", "images", "images/coco2014", "coco2014", "coco", "mscoco", "")
_COCO_2017_PARENTS = ("", "coco", "coco2017", "images", "images/coco2017", "images/coco", "coco/images")
COCO_2014 = tuple(
    f"{parent}/{part}".lstrip("/") for parent in _COCO_PARENTS for part in ("train2014", "val2014", "trainval2014")
)
COCO_2017_ROOTS = _COCO_2017_PARENTS
PANOPTIC_2017_ROOTS = (*_COCO_2017_PARENTS, "annotations", "coco/annotations", "panoptic", "coco/panoptic")
SAIAPR = ("images/saiapr_tc-12", "saiapr_tc-12")


def bases(root: pathlib.Path, folders: Sequence[str] = REFER_FOLDERS) -> list[pathlib.Path]:
    """The folders that exist among every tree's `folders` below `root`, in order of preference."""
    found: dict[pathlib.Path, None] = {}
    for tree in TREES:
        for folder in folders:
            path = root / tree / folder
            if path.is_dir():
                found[path] = None
    return list(found)


def find(
    root: pathlib.Path, spellings: Iterable[str], what: str, folders: Sequence[str] = REFER_FOLDERS
) -> pathlib.Path:
    """The first of `spellings` that exists below a tree.

    Args:
        root: the data root.
        spellings: relative paths of files or folders, preferred ones first.
        what: what is sought, for the message.
        folders: where below a tree to look.

    Raises:
        NotThereError: there is none; says what was looked for.
    """
    spellings = list(spellings)
    places = bases(root, folders)
    for spelling in spellings:
        for base in places:
            if (base / spelling).exists():
                return base / spelling
    searched = ", ".join("the folder itself" if base == root else str(base.relative_to(root)) for base in places)
    raise NotThereError(f"{root}: no {what}: looked for {' or '.join(spellings)} in {searched}")


class ImageFolders:
    """Folders that may hold a dataset's images; which of them do is found out at the first image asked for."""

    def __init__(self, root: pathlib.Path, spellings: Sequence[str], folders: Sequence[str] = REFER_FOLDERS) -> None:
        """`spellings`: image folders below a tree, preferred ones first, or absolute paths."""
        self.root = root
        self.spellings = tuple(spellings)
        self._folders = tuple(folders)
        self._existing: list[pathlib.Path] | None = None

    def path(self, name: str, record: str) -> pathlib.Path:
        """The image `name`, for the query `record`. Raises DataError where no folder has it."""
        if self._existing is None:
            places = bases(self.root, self._folders)
            known = {base / spelling: None for spelling in self.spellings for base in places}
            self._existing = [path for path in known if path.is_dir()]
        for folder in self._existing:
            if (folder / name).is_file():
                return folder / name
        searched = ", ".join(str(folder) for folder in self._existing[:4])
        hint = f"not in {searched}" if searched else f"there is no folder such as {self.spellings[0]} in {self.root}"
        raise DataError(f"{record}: no image {name}: {hint}")

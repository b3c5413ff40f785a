from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mllmseg.agent.trace import Trace
from mllmseg.demo.conversation import Talk
from mllmseg.demo.exports import file_stem, write_exports
from mllmseg.errors import DataError
from mllmseg.models.postprocess import decode_rle

pytestmark = pytest.mark.weights


def test_every_file_holds_the_mask(cup: Talk, tmp_path: Path) -> None:
    files = {path.name: path for path in write_exports(cup, tmp_path)}
    mask = cup.session.masks[0].mask
    assert np.array_equal(np.array(Image.open(files["coffee-mask-1-the-cup.png"])) > 0, mask)
    assert np.array_equal(np.array(Image.open(files["coffee-cutout.png"]))[..., 3] > 0, mask)
    assert Image.open(files["coffee-overlay.png"]).size == (600, 400)
    (code,) = json.loads(files["coffee-rle.json"].read_text(encoding="utf-8"))
    assert np.array_equal(decode_rle(code["rle"]).numpy(), mask)
    assert code["area"] == mask.sum()
    coco = json.loads(files["coffee-coco.json"].read_text(encoding="utf-8"))
    assert coco["categories"] == [{"id": 1, "name": "the cup"}]
    assert coco["annotations"][0]["bbox"] == code["box"]
    (trace,) = json.loads(files["coffee-traces.json"].read_text(encoding="utf-8"))
    assert Trace.model_validate(trace) == cup.session.exchanges[0].trace


def test_coco_is_what_pycocotools_reads(cup: Talk, tmp_path: Path) -> None:
    from pycocotools.coco import COCO

    write_exports(cup, tmp_path)
    read = COCO(str(tmp_path / "coffee-coco.json"))
    assert read.annToMask(read.anns[1]).sum() == cup.session.masks[0].mask.sum()


def test_nothing_marked_is_nothing_to_take_home(coffee: Talk, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing is marked"):
        write_exports(coffee, tmp_path)


@pytest.mark.parametrize(
    ("text", "stem"),
    [
        ("the cup", "the-cup"),
        ("../../etc/passwd", "etc-passwd"),
        ("杯子 ☕", "杯子"),
        ("///", "mask"),
        ("x" * 99, "x" * 40),
    ],
)
def test_names_of_files_are_harmless_in_any_language(text: str, stem: str) -> None:
    assert file_stem(text) == stem

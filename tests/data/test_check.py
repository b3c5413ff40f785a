"""What the checker says of complete, incomplete and broken folders."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mllmseg.data.check import check_root
from mllmseg.data.published import PUBLISHED, Published
from mllmseg.data.referring import known_datasets
from mllmseg.errors import DataError

Writer = Callable[[str, Path], None]


def test_counts_of_every_miniature(tmp_path: Path, write_miniature: Writer) -> None:
    for name in known_datasets():
        write_miniature(name, tmp_path)
    reports = {report.name: report for report in check_root(tmp_path, masks=True)}
    assert reports.keys() == set(known_datasets())
    for report in reports.values():
        assert report.problem is None
        assert not report.absent
        for split in report.splits:
            assert split.positives + split.negatives == split.sentences
            assert (split.missing_images, split.num_broken, split.num_empty) == (0, 0, 0)
    splits = {split.split: split for split in reports["grefcoco"].splits}
    assert list(splits) == ["train", "val", "testA", "testB"]
    val = splits["val"]
    assert (val.images, val.refs, val.sentences, val.positives, val.negatives) == (2, 6, 8, 4, 4)
    assert [split.num_unknown for split in reports["coco-mini"].splits] == [1, 1]
    json.dumps([report.to_json() for report in reports.values()])


def test_published_counts_are_compared(
    tmp_path: Path, write_miniature: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_miniature("refcoco", tmp_path)
    monkeypatch.setitem(PUBLISHED, ("refcoco", "val"), Published(2, 6, 8))
    monkeypatch.setitem(PUBLISHED, ("refcoco", "testA"), Published(1, None, 5))
    (report,) = check_root(tmp_path, names=["refcoco"])
    differences = {split.split: split.differences for split in report.splits}
    assert differences["val"] == ()
    assert differences["testA"] == ("4 sentences, published 5",)
    assert differences["testB"] == (
        "1 images, published 750",
        "3 refs, published 1,810",
        "4 sentences, published 5,095",
    )
    assert report.wrong


def test_missing_images_and_broken_labels(tmp_path: Path, write_miniature: Writer) -> None:
    write_miniature("rrefcoco", tmp_path)
    (tmp_path / "refer_seg/images/mscoco/images/train2014/COCO_train2014_000000000009.jpg").unlink()
    path = tmp_path / "rrefcoco/instances.json"
    content = json.loads(path.read_text())
    for item in content["annotations"]:
        if item["id"] == 251:
            item["segmentation"] = {"size": [1, 1], "counts": [1]}
        if item["id"] == 252:
            item["segmentation"] = [[1.0, 1.0, 2.0, 2.0]]
    path.write_text(json.dumps(content))
    (report,) = check_root(tmp_path, names=["rrefcoco"], masks=True)
    val = next(split for split in report.splits if split.split == "val")
    assert (val.missing_images, val.num_broken, val.num_empty) == (1, 2, 1)
    assert "annotation 251" in val.broken[0]
    assert report.wrong


def test_absent_is_not_broken(tmp_path: Path, write_miniature: Writer) -> None:
    write_miniature("refzom", tmp_path)
    (tmp_path / "refer_seg/refzom/instances.json").write_text("{")
    reports = {report.name: report for report in check_root(tmp_path, names=["refzom", "refcoco"])}
    assert reports["refzom"].wrong
    assert not reports["refzom"].absent
    assert "instances.json: not valid JSON" in str(reports["refzom"].problem)
    assert reports["refcoco"].absent
    assert not reports["refcoco"].wrong
    assert "refs(unc).p" in reports["refcoco"].put
    with pytest.raises(DataError, match="no such folder"):
        check_root(tmp_path / "nowhere")


def test_published_counts_name_datasets_and_splits() -> None:
    for name, split in PUBLISHED:
        assert split in known_datasets().get(name).splits

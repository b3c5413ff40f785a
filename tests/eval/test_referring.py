"""The evaluation on a made-up dataset of two small photos: counts by hand, resuming, and what must be refused."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mllmseg.data.datasets.coco_mini import CocoMini, Expression, Photo, union_mask
from mllmseg.errors import AlignmentError, DataError
from mllmseg.eval.predict import Prediction, SegmenterPredictor
from mllmseg.eval.provenance import claim_folder, describe_run, git_revision
from mllmseg.eval.referring import box_iou, evaluate, largest_superpixel, select_queries, tight_box
from mllmseg.eval.report import build_report
from mllmseg.eval.rows import Row, append_row, read_rows
from mllmseg.models.postprocess import decode_rle

SIZE = (4, 8)  # 32 pixels


def rectangle(x: int, y: int, w: int, h: int) -> list[list[float]]:
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]


@pytest.fixture
def dataset(tmp_path: pathlib.Path) -> CocoMini:
    images = [
        {"id": i, "file_name": f"{i}.png", "width": 8, "height": 4, "label_scope": "coco80", "captions": []}
        for i in (1, 2)
    ]
    boxes = {1: (1, 0, 0, 4, 4), 2: (1, 4, 0, 4, 2), 3: (2, 2, 0, 2, 4)}  # id: image, x, y, w, h
    annotations = [
        {"id": i, "image_id": image, "category_id": 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
        | {"segmentation": rectangle(*box), "mask": "human"}
        for i, (image, *box) in boxes.items()
    ]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "dog", "isthing": 1}]}
    (tmp_path / "instances_val.json").write_text(json.dumps(content))
    rows = [
        (1, "the dog on the left", "template", "left", [1], None),
        (1, "the cat", "template", "no_target", [], None),
        (1, "all the dogs", "template", "all", [1, 2], None),
        (2, "the dog", "template", "unique", [3], None),
        (2, "the dog that barks", "refcocos", None, [3], None),
        (2, "the dog without spots", "refcocos", None, None, [2, 0, 4, 4]),
        (2, "the flying dog", "refcocos", None, [], None),
    ]
    names = ("image_id", "text", "source", "rule", "ann_ids", "box")
    lines = [json.dumps(dict(zip(names, row, strict=True)) | {"tags": None}) for row in rows]
    (tmp_path / "expressions_val.jsonl").write_text("\n".join(lines))
    return CocoMini(tmp_path, "val")


class Fake:
    """Paints the left half and accepts everything without "cat" or "flying"; counts its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, list[str]]] = []

    def __call__(self, photo: Photo, expressions: Sequence[Expression]) -> list[Prediction]:
        self.calls.append((photo.id, [item.text for item in expressions]))
        mask = np.zeros(photo.size, dtype=bool)
        mask[:, :4] = True
        label_map = np.array([[0, 1, 1, 1]])  # the largest region is the right three quarters
        return [
            Prediction(
                exists="cat" not in item.text and "flying" not in item.text,
                score=0.2 if "cat" in item.text else 0.9,
                mask=mask,
                answer="words",
                mask_scores=(0.5,),
                num_visual_tokens=4 * photo.id,
                timings={"encode": 10.0},
                label_map=label_map,
            )
            for item in expressions
        ]


def test_counts_by_hand(dataset: CocoMini, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "out" / "predictions.jsonl"
    report = evaluate(dataset, Fake(), predictions_path=path)
    rows = read_rows(path)
    assert [row.id for row in rows] == [f"val/{index}" for index in range(7)]
    # (I, U): the left dog exactly; all dogs 16 of 24; the middle dog 8 of 16.
    assert [(row.I, row.U, row.P) for row in rows] == [
        (16, 16, 16),
        (0, 0, 0),
        (16, 24, 16),
        (8, 16, 16),
        (8, 16, 16),
        (None, None, 16),
        (0, 0, 0),
    ]
    assert [row.iou for row in rows] == [1.0, 1.0, pytest.approx(2 / 3), 0.5, 0.5, None, 1.0]
    assert rows[5].box_iou == pytest.approx(8 / 24)
    assert rows[5].has_target
    assert rows[0].whole == (16, 32)
    assert rows[0].largest == (8, 32)
    assert rows[1].rle is None
    assert decode_rle(rows[0].rle).sum() == 16

    template, human = report.groups["template"], report.groups["human"]
    assert template.positives.value == pytest.approx((1 + 2 / 3 + 0.5) / 3)
    assert template.positives.count == 3
    assert template.existence.value == 1
    assert template.num_negatives == 1
    assert template.gres["gIoU"] == pytest.approx((1 + 1 + 2 / 3 + 0.5) / 4)
    assert template.gres["cIoU"] == pytest.approx(40 / 56)
    assert human.positives.count == 1
    assert human.existence.count == 3
    assert human.box_iou.count == 1
    assert human.box_iou.value == pytest.approx(1 / 3)
    assert report.rules == {
        "all": (1, pytest.approx(2 / 3), 1.0),
        "left": (1, 1.0, 1.0),
        "unique": (1, 0.5, 1.0),
        "no_target": (1, 1.0, 0.0),
    }
    whole = (16 / 32 + 24 / 32 + 8 / 32) / 3
    assert report.baselines["accepts all, whole image"] == pytest.approx((whole, whole * 0.75, 0.5))
    largest = (8 / 32 + 16 / 32 + 8 / 24) / 3
    assert report.baselines["accepts all, largest superpixel"][0] == pytest.approx(largest)
    assert report.num_visual_tokens == 6
    assert report.num_images == 2
    assert report.timings == {"encode": 10.0}


def test_a_rejected_target_counts_nothing_but_keeps_its_forced_mask(dataset: CocoMini, tmp_path: pathlib.Path) -> None:
    def reject(photo: Photo, expressions: Sequence[Expression]) -> list[Prediction]:
        masks = [union_mask(photo, item.ann_ids or ()) for item in expressions]
        return [Prediction(exists=False, score=0.1, mask=mask, answer="no") for mask in masks]

    path = tmp_path / "predictions.jsonl"
    report = evaluate(dataset, reject, predictions_path=path)
    template = report.groups["template"]
    assert template.positives.value == 0
    assert template.forced.value == 1
    assert template.accepted == 0
    assert template.existence.value == 0.5
    assert report.groups["human"].box_iou.value == 0
    assert all(row.P == 0 and row.rle is None for row in read_rows(path))
    assert "nan" not in json.dumps(report.to_dict()).lower()


def test_the_image_is_predicted_once_and_runs_resume(dataset: CocoMini, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "predictions.jsonl"
    fake = Fake()
    whole = evaluate(dataset, fake, predictions_path=path)
    assert [(image, len(texts)) for image, texts in fake.calls] == [(1, 3), (2, 4)]
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2]) + lines[2][:30])  # cut in the middle of the third line
    fake = Fake()
    seen: list[tuple[int, int]] = []
    again = evaluate(dataset, fake, predictions_path=path, on_photo=lambda *count: seen.append(count))
    assert fake.calls[0] == (1, ["all the dogs"])
    assert seen == [(1, 2), (2, 2)]
    assert again.to_dict()["groups"] == whole.to_dict()["groups"]
    fake = Fake()
    evaluate(dataset, fake, predictions_path=path)
    assert fake.calls == []


def test_a_report_needs_no_model_and_no_order(dataset: CocoMini, tmp_path: pathlib.Path) -> None:
    report = evaluate(dataset, Fake(), predictions_path=tmp_path / "p.jsonl")
    rows = read_rows(tmp_path / "p.jsonl")
    assert build_report(rows).to_dict() == report.to_dict()
    assert build_report(rows[::-1]).groups["template"].positives.value == report.groups["template"].positives.value


def test_limit_spreads_over_the_split(dataset: CocoMini) -> None:
    assert list(select_queries(dataset)) == [1, 2]
    assert list(select_queries(dataset, 1)) == [1]
    assert list(select_queries(dataset, 5)) == [1, 2]


def test_a_file_of_other_data_is_refused(dataset: CocoMini, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "p.jsonl"
    evaluate(dataset, Fake(), predictions_path=path)
    row = read_rows(path)[0]
    path.unlink()
    append_row(path, Row(**{**vars(row), "text": "something else"}))
    with pytest.raises(DataError, match="query val/0 is 'something else'"):
        evaluate(dataset, Fake(), predictions_path=path)
    path.write_text('{"id": 1}\n')
    with pytest.raises(DataError, match="line 1 is no prediction"):
        read_rows(path)


def test_too_few_predictions_are_refused(dataset: CocoMini, tmp_path: pathlib.Path) -> None:
    with pytest.raises(AlignmentError, match="3 sentences, 0 predictions"):
        evaluate(dataset, lambda photo, expressions: [], predictions_path=tmp_path / "p.jsonl")


def test_markdown_shows_every_group_and_rule(dataset: CocoMini, tmp_path: pathlib.Path) -> None:
    text = evaluate(dataset, Fake(), predictions_path=tmp_path / "p.jsonl").markdown()
    for piece in (
        "## Template sentences",
        "## Human sentences",
        "| left | 1 | 1.000 | 1.000 |",
        "rejects all",
        "encode",
    ):
        assert piece in text


def test_boxes() -> None:
    mask = np.zeros(SIZE, dtype=bool)
    assert tight_box(mask) == (0, 0, 0, 0)
    mask[1:3, 2:7] = True
    assert tight_box(mask) == (2, 1, 5, 2)
    assert box_iou((0, 0, 4, 4), (2, 0, 4, 4)) == pytest.approx(8 / 24)
    assert box_iou((0, 0, 1, 1), (5, 5, 1, 1)) == 0
    assert box_iou((0, 0, 0, 0), (0, 0, 0, 0)) == 0


def test_the_largest_superpixel_at_the_images_size() -> None:
    expected = np.zeros(SIZE, dtype=bool)
    expected[:, 2:] = True
    np.testing.assert_array_equal(largest_superpixel(np.array([[0, 1, 1, 1], [0, 1, 1, 1]]), SIZE), expected)


def test_a_segmenter_as_a_predictor() -> None:
    asked: list[tuple[list[str], float]] = []

    class FakeSegmenter:
        threshold = 0.5

        def set_image(self, image: pathlib.Path) -> None:
            self.image = image

        def segment(self, texts: list[str], *, threshold: float) -> list[SimpleNamespace]:
            asked.append((texts, threshold))
            masks = torch.ones(1, *SIZE, dtype=torch.bool)
            superpixels = SimpleNamespace(label_map=torch.zeros(2, 4, dtype=torch.int64))
            return [
                SimpleNamespace(
                    query=text,
                    score=score,
                    union=masks.any(0),
                    mask_scores=torch.tensor([0.7]),
                    num_visual_tokens=3,
                    timings={"encode": 1.0},
                    superpixels=superpixels,
                )
                for text, score in zip(texts, (0.9, 0.3), strict=True)
            ]

    photo = Photo(1, pathlib.Path("x.png"), SIZE, frozenset(), "coco80", ())
    expressions = [Expression(1, text, "template", None, (), None) for text in ("the dog", "the cat")]
    first, second = SegmenterPredictor(FakeSegmenter())(photo, expressions)  # type: ignore[arg-type]
    assert asked == [(["the dog", "the cat"], 0.0)], "all masks are asked for, in one call"
    assert (first.exists, second.exists) == (True, False)
    assert "dog" in first.answer
    assert second.answer != first.answer
    assert second.mask.shape == SIZE
    strict = SegmenterPredictor(FakeSegmenter(), threshold=0.95)  # type: ignore[arg-type]
    assert not strict(photo, expressions)[0].exists


def test_a_folder_belongs_to_one_run(tmp_path: pathlib.Path) -> None:
    checkpoint = tmp_path / "model"
    checkpoint.mkdir()
    (checkpoint / "config.yaml").write_text("a: 1")
    arguments = {"protocol": "x/1", "data": [checkpoint / "config.yaml"], "checkpoint": checkpoint}
    run = describe_run(**arguments, settings={"threshold": 0.5})
    claim_folder(tmp_path / "out", run)
    claim_folder(tmp_path / "out", run | {"revision": "other"})
    with pytest.raises(DataError, match="settings was"):
        claim_folder(tmp_path / "out", describe_run(**arguments, settings={"threshold": 0.6}))
    (checkpoint / "config.yaml").write_text("a: 2")
    with pytest.raises(DataError, match="data_sha256 was"):
        claim_folder(tmp_path / "out", describe_run(**arguments, settings={"threshold": 0.5}))
    assert git_revision() is None or git_revision()


def test_pictures(dataset: CocoMini, tmp_path: pathlib.Path) -> None:
    pytest.importorskip("mllmseg.inference.visualize")
    from PIL import Image

    from mllmseg.eval.pictures import save_pictures

    (tmp_path / "images").mkdir()
    for photo in dataset.photos.values():
        Image.new("RGB", photo.size[::-1], "gray").save(photo.path)
    evaluate(dataset, Fake(), predictions_path=tmp_path / "p.jsonl")
    paths = save_pictures(dataset, read_rows(tmp_path / "p.jsonl"), tmp_path / "pictures", 3)
    assert paths[0].name == "000001_the-dog-on-the-left_iou1.00.jpg"
    assert len(paths) == 3
    assert all(path.is_file() for path in paths)

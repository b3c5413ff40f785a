"""Results by kind of sentence, counted by hand on the made-up dataset, as data and as tables."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mllmseg.data.referring import Query, UnknownTargetError
from mllmseg.eval.evaluation_report import EvaluationReport, score_mode
from mllmseg.eval.kind_tables import decision_table, kind_tables, mask_table
from mllmseg.eval.kinds import ALL, MOST_KINDS, group_by_kind, score_kinds
from mllmseg.eval.scoring import Answers, read_answers
from mllmseg.models.postprocess import encode_rle

# The dataset's targets are the left three columns of 6 x 8 pixels; only the box of the last one's is known.
KINDS = ("template/one", "template/one", "template/none", "template/one", "template/many", "human", "human")
BOX = (0.0, 0.0, 4.0, 6.0)


def make_boxed(dataset: Any) -> Any:
    queries = [dataclasses.replace(query, kind=kind) for query, kind in zip(dataset.queries, KINDS, strict=True)]
    queries[-1] = dataclasses.replace(queries[-1], has_target=True, box=BOX)
    dataset.queries, draw = queries, dataset.target

    def target(query: Query) -> Any:
        if query.box is not None:
            raise UnknownTargetError("only its box is known")
        return draw(query)

    dataset.target = target
    return dataset


def answers(dataset: Any, path: Path, columns: int, *, rejects: str = "") -> Answers:
    """All but `rejects` gets the left `columns`."""
    mask = np.zeros((6, 8), dtype=bool)
    mask[:, :columns] = True
    lines = []
    for query in dataset.queries:
        exists = query.text != rejects
        line = {
            "id": query.id,
            "image": query.image,
            "text": query.text,
            "exists": exists,
            "score": 0.9 if exists else 0.1,
        }
        lines.append(line | {"rle": encode_rle(mask) if exists else None})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return read_answers(dataset, [path])


@pytest.fixture
def report(made_up: Any, tmp_path: Path) -> EvaluationReport:
    dataset = make_boxed(made_up)
    found = {
        "scored": answers(dataset, tmp_path / "scored", 2, rejects="a bird"),
        "teacher": answers(dataset, tmp_path / "teacher", 2),
        "whole-image": answers(dataset, tmp_path / "whole", 8),
    }
    modes = [score_mode(mode, found[mode].samples, scorers=["gres"], repeats=5) for mode in ("scored", "teacher")]
    return EvaluationReport("made-up", "val", modes, {}, kinds=score_kinds(dataset.queries, found, repeats=20))


def test_a_part_follows_its_whole(made_up: Any) -> None:
    groups = group_by_kind(make_boxed(made_up).queries)
    assert list(groups) == [ALL, "human", "template", "template/many", "template/none", "template/one"]
    assert [len(ids) for ids in groups.values()] == [7, 2, 5, 1, 1, 3]


def test_nobody_reads_a_thousand_kinds() -> None:
    queries = [Query(str(n), "a", "b", "c", True, kind="often" if n % 2 else str(n)) for n in range(1000)]
    groups = group_by_kind(queries)
    assert len(groups) == MOST_KINDS + 1
    assert len(groups["often"]) == 500
    assert len(groups[ALL]) == 1000


def test_masks_by_hand(report: EvaluationReport) -> None:
    table = mask_table(report)
    assert table.columns == ["kind", "n", "scored", "if none were rejected", "whole image"]
    cells = {row.cells[0].text: [cell.text for cell in row.cells[1:]] for row in table.rows}
    # Two of three columns: 2/3; the whole image: 3/8; "a bird" was rejected.
    assert cells == {
        ALL: ["5", "53.3", "66.7", "37.5"],
        "human": ["1", "66.7", "66.7", "37.5"],
        "template": ["4", "50.0", "66.7", "37.5"],
        "template/many": ["1", "0.0", "66.7", "37.5"],
        "template/one": ["3", "66.7", "66.7", "37.5"],
        "targets known by a box": ["1", "50.0", "50.0", "50.0"],
    }
    assert "IoU of boxes" in table.note


def test_decisions_by_hand(report: EvaluationReport) -> None:
    cells = {row.cells[0].text: [cell.text for cell in row.cells[1:]] for row in decision_table(report).rows}
    # One negative, accepted; one of four targets rejected: (0 + 3/4) / 2; three ties with the negative, one rank below
    # it; of four sentences that got 0.9 three quarters have a target, so has the one that got 0.1.
    assert cells["template"] == ["4", "1", "75.0", "0.0", "0.375", "0.375", "0.300"]
    assert cells["template/none"] == ["0", "1", "–", "0.0", "–", "–", "–"]
    assert "targets known by a box" not in cells


def test_a_rejected_box_counts_nothing(made_up: Any, tmp_path: Path) -> None:
    dataset = make_boxed(made_up)
    (sample,) = answers(dataset, tmp_path / "p", 2, rejects="nothing").boxed.values()
    assert (sample.exists, sample.intersection, sample.union, sample.predicted) == (False, 0, 24, 0)
    (sample,) = answers(dataset, tmp_path / "p", 2).boxed.values()
    assert (sample.intersection, sample.union) == (12, 24)
    (sample,) = answers(dataset, tmp_path / "p", 0).boxed.values()
    assert (sample.exists, sample.intersection, sample.union) == (True, 0, 24)


def test_nothing_to_break_down(made_up: Any, tmp_path: Path) -> None:
    found = answers(made_up, tmp_path / "p", 2)
    assert score_kinds(made_up.queries, {"scored": found}, repeats=5) == []
    (row,) = score_kinds(made_up.queries, {"scored": found, "whole-image": found}, repeats=5)
    assert row.name == ALL
    assert not math.isnan(row.modes["whole-image"].scores["classic"]["mIoU"].value)
    empty = EvaluationReport("made-up", "val", [score_mode("scored", found.samples, scorers=["gres"], repeats=5)], {})
    assert kind_tables(empty) == []

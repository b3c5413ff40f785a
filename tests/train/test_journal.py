"""A line a step, taken back where a run is resumed."""

from __future__ import annotations

from pathlib import Path

from mllmseg.train.journal import Journal


def test_a_resumed_run_takes_back_what_it_does_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    assert journal.entries() == []
    places = [("align", 0), ("align", 1), ("instruct", 0), ("instruct", 1), ("instruct", 2)]
    for stage, step in places:
        journal.add({"stage": stage, "step": step, "samples": [step]})
    with journal.path.open("a") as file:
        file.write('{"stage": "instruct", "step": 3, "sam')  # killed while writing
    assert [(entry["stage"], entry["step"]) for entry in journal.entries()] == places
    journal.rewind("instruct", 1)
    assert [(entry["stage"], entry["step"]) for entry in journal.entries()] == places[:3]
    journal.add({"stage": "instruct", "step": 1})
    assert len(journal.path.read_text().splitlines()) == 4

import json
from pathlib import Path
from xml.etree import ElementTree

from mllmseg.bench.measure import Measurement
from mllmseg.bench.report import Curve, Table, write

FACTS = {
    "device": "a processor", "kind": "cpu", "threads": 1, "cores": 2, "load": 0.5, "torch": "2", "transformers": "5",
    "python": "3", "mllmseg": "0",
}  # fmt: skip


def measured(name: str, seconds: float) -> Measurement:
    return Measurement(name, (9.0,), (seconds,), (0,), 3 << 20)


def test_tables_curves_and_numbers_are_written(tmp_path: Path) -> None:
    table = Table("Questions", "A note.", [measured("first", 2.0), measured("next", 0.5)])
    curve = Curve("visual tokens", [36.0, 576.0], [measured("36", 0.1), measured("576", 1.6)])
    text = write(tmp_path, FACTS, [table], [curve], "mllmseg bench")
    assert (tmp_path / "bench.md").read_text() == text
    assert "| next | 500 | 4.0× | 3 MiB | 1 |" in text
    assert "| 576 | 1,600 | 3 MiB |" in text
    assert "growth_visual_tokens.svg" in text
    drawing = ElementTree.parse(tmp_path / "growth_visual_tokens.svg").getroot()
    assert len(drawing.findall("{http://www.w3.org/2000/svg}circle")) == 2
    plain = json.loads((tmp_path / "bench.json").read_text())
    assert plain["tables"]["Questions"][1]["median_cpu_seconds"] == 0.5
    assert plain["growth"]["visual tokens"][1]["amount"] == 576

"""One line a step: which samples, what loss. Says afterwards what a run saw, and shows that resuming lost nothing."""

from __future__ import annotations

import json
import pathlib
from typing import Any

from mllmseg.train.stages import STAGE_NAMES


class Journal:
    """A JSONL file that only grows while a run goes on; a resumed run first takes back what it will do again."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path

    def add(self, entry: dict[str, Any]) -> None:
        """Appends a step."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def entries(self) -> list[dict[str, Any]]:
        """Every step so far; a line that was cut off is left out."""
        if not self.path.exists():
            return []
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("}\n")]

    def rewind(self, stage: str, step: int) -> None:
        """Keeps what came before a step of a stage."""
        place = (STAGE_NAMES.index(stage), step)
        kept = [entry for entry in self.entries() if (STAGE_NAMES.index(entry["stage"]), entry["step"]) < place]
        temporary = self.path.with_name(f".{self.path.name}")
        temporary.write_text("".join(json.dumps(entry) + "\n" for entry in kept), encoding="utf-8")
        temporary.replace(self.path)

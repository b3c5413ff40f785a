"""Where a run stands, saved so that it can be cut off at any moment: whole folders, renamed into place.

A folder `checkpoints/STAGE-STEP` is a checkpoint like any other (`mllmseg/models/checkpoint.py`), so it can be
evaluated and exported as it is. Beside the weights it has what resuming needs, alike under every strategy and number of
processes:

- `optimizer.safetensors`: both moments of every parameter the stage trains, and the number of steps
- `progress.json`: stage, step, seconds

There is no state of any generator and no position in the data: both follow from stage and step.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from mllmseg.errors import CheckpointError
from mllmseg.models.checkpoint import MODEL_FILE, load_trained_state, save_checkpoint
from mllmseg.models.mllmseg import MLLMSeg
from mllmseg.train.stages import STAGE_NAMES

OPTIMIZER_FILE, PROGRESS_FILE, LATEST = "optimizer.safetensors", "progress.json", "latest"


@dataclass(frozen=True)
class Progress:
    """So many steps of a stage are done; `seconds` spent training so far; `best` the best validation so far."""

    stage: str
    step: int
    seconds: float
    best: float | None = None


class Checkpoints:
    """The checkpoints of a run, of which the newest `keep` stay."""

    def __init__(self, folder: pathlib.Path, keep: int) -> None:
        self.folder = folder
        self.keep = keep

    def all(self) -> list[pathlib.Path]:
        """Every whole checkpoint, oldest first."""
        places = {}
        for path in self.folder.glob("*/" + PROGRESS_FILE):
            stage, _, step = path.parent.name.rpartition("-")
            if stage in STAGE_NAMES and step.isdecimal() and not path.parent.is_symlink():
                places[STAGE_NAMES.index(stage), int(step)] = path.parent
        return [places[place] for place in sorted(places)]

    def save(
        self, model: MLLMSeg, progress: Progress, optimizer: Mapping[str, Tensor], training: dict[str, Any]
    ) -> pathlib.Path:
        """Writes a checkpoint, points `latest` to it, and only then removes what is too old."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{progress.stage}-{progress.step:06d}"
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in optimizer.items()}
        extra = {OPTIMIZER_FILE: save(tensors), PROGRESS_FILE: json.dumps(asdict(progress)).encode()}
        save_checkpoint(model, path, training=training, extra=extra)
        self._point_to(path)
        for old in self.all()[: -self.keep]:
            _remove(old)
        return path

    def load(self, path: pathlib.Path, model: MLLMSeg) -> tuple[Progress, dict[str, Tensor]]:
        """Puts a checkpoint's weights into the model; returns where it stands and the optimizer's state.

        Raises:
            CheckpointError: it is damaged or does not fit the model.
        """
        try:
            weights = load_file(path / MODEL_FILE)
            optimizer = load_file(path / OPTIMIZER_FILE)
            progress = Progress(**json.loads((path / PROGRESS_FILE).read_text(encoding="utf-8")))
        except (OSError, SafetensorError, ValueError, TypeError) as error:
            raise CheckpointError(
                f"{path} is damaged ({error}); remove it to go on from the checkpoint before it"
            ) from error
        load_trained_state(model, weights, source=str(path / MODEL_FILE))
        return progress, optimizer

    def clean(self) -> None:
        """Removes what a process that was killed while saving or removing left behind."""
        for path in self.folder.glob(".*"):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)

    def _point_to(self, path: pathlib.Path) -> None:
        # For people and tools: resuming looks at the folders themselves.
        temporary = self.folder / f".{LATEST}"
        with contextlib.suppress(OSError):  # not every file system has links
            temporary.unlink(missing_ok=True)
            os.symlink(path.name, temporary)
            temporary.replace(self.folder / LATEST)


def _remove(path: pathlib.Path) -> None:
    """Takes a folder away whole: half a checkpoint must not look like one."""
    hidden = path.with_name(f".{path.name}-old")
    path.rename(hidden)
    shutil.rmtree(hidden)

"""Trains with each of the settings named on the command line, one after the other; started by torchrun in tests."""

import argparse
import logging
from typing import Any

from mllmseg.config import TrainConfig
from mllmseg.train.stages import Stage
from mllmseg.train.trainer import Trainer


class Killed(BaseException):
    """Nothing catches this, as nothing catches SIGKILL."""


logging.basicConfig(level=logging.WARNING)
parser = argparse.ArgumentParser()
parser.add_argument("settings", nargs="+")
parser.add_argument("--resume", action="store_true")
parser.add_argument("--die", help="STAGE:STEP, before that step")
arguments = parser.parse_args()
for path in arguments.settings:
    trainer = Trainer(TrainConfig.from_yaml(path), resume=arguments.resume)
    healthy = trainer._step

    def step(stage: Stage, number: int, *args: Any, healthy: Any = healthy) -> None:
        if f"{stage.name}:{number}" == arguments.die:
            raise Killed
        healthy(stage, number, *args)

    trainer._step = step  # type: ignore[method-assign]
    try:
        trainer.run()
    except Killed:
        continue

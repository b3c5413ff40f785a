"""Errors a user can act on: each message names the values, the file and what to do."""

from __future__ import annotations


class MLLMSegError(Exception):
    """Base of every error this package raises on purpose; the CLI prints it as one line and exits with `exit_code`."""

    exit_code = 2


class ConfigError(MLLMSegError):
    """A configuration file or override is wrong: unknown key, bad value, impossible combination."""


class DataError(MLLMSegError):
    """An image, annotation or dataset cannot be read or does not hold what was promised."""


class AlignmentError(MLLMSegError):
    """Two things that must have the same length or order do not, such as placeholders and visual tokens."""


class CheckpointError(MLLMSegError):
    """A checkpoint is missing, incomplete, or does not fit the model it is loaded into."""


class EndpointError(MLLMSegError):
    """A language model's endpoint is down, slow, or answers what cannot be read."""


class WeightsError(MLLMSegError):
    """Pre-trained weights cannot be found, fetched or verified."""


class TrainingError(MLLMSegError):
    """Training went wrong: a loss is not finite or above its limit."""


class InterruptedRunError(MLLMSegError):
    """A signal asked the run to stop; it was saved and can be resumed."""

    def __init__(self, message: str, *, signal: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal

"""Runners make the steps of one stage, each strategy in its way. Here the plain one: a single process, or DDP."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mllmseg.errors import CheckpointError

MOMENTS = ("exp_avg", "exp_avg_sq")
Figures = dict[str, tuple[float, int]]


class Runner(ABC):
    """Steps of one stage. Losses and figures come from the module's forward, `(items, counts) -> (loss, figures)`."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
        self.parameters = dict(parameters)
        self.optimizer = optimizer

    @abstractmethod
    def backpropagate(self, batches: Sequence[tuple[Any, ...]]) -> list[Figures]:
        """Adds up the gradients of this process's micro-batches, and of all processes."""

    @abstractmethod
    def step(self) -> float:
        """Clips, updates and forgets the gradients; returns their norm before clipping."""

    @abstractmethod
    def optimizer_state(self) -> dict[str, Tensor]:
        """Both moments of every trained parameter, whole, and the number of steps; all processes must ask together."""

    @abstractmethod
    def load_optimizer_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes what `optimizer_state` gave, under whatever strategy and number of processes."""

    @contextmanager
    def as_built(self) -> Iterator[None]:
        """Within this context, which all processes enter together, trained parameters are as they were built."""
        yield

    def close(self) -> None:  # noqa: B027  most have nothing to do
        """Leaves the module as it was, but for its values."""

    def _check_state(self, state: Mapping[str, Tensor]) -> None:
        missing = {f"{moment}.{name}" for moment in MOMENTS for name in self.parameters} - state.keys()
        if missing or "step" not in state:
            raise CheckpointError(f"the optimizer's state lacks {sorted(missing)[:5]} ({len(missing)})")


class PlainRunner(Runner):
    """One process, or DDP."""

    def __init__(
        self,
        module: nn.Module,
        parameters: Mapping[str, nn.Parameter],
        optimizer: torch.optim.Optimizer,
        *,
        processes: int,
        max_grad_norm: float,
        half: bool,
    ) -> None:
        super().__init__(parameters, optimizer)
        self.processes = processes
        self.max_grad_norm = max_grad_norm
        self.module: nn.Module = DistributedDataParallel(module) if processes > 1 else module
        self.scaler = torch.amp.GradScaler(next(iter(self.parameters.values())).device.type, enabled=half)

    def backpropagate(self, batches: Sequence[tuple[Any, ...]]) -> list[Figures]:
        """See `Runner`."""
        found = []
        for number, batch in enumerate(batches, start=1):
            ddp = self.module if isinstance(self.module, DistributedDataParallel) and number < len(batches) else None
            with ddp.no_sync() if ddp is not None else contextlib.nullcontext():
                loss, figures = self.module(*batch)
                self.scaler.scale(loss * self.processes).backward()  # DDP takes the mean over processes
            found.append(figures)
        return found

    def step(self) -> float:
        """See `Runner`."""
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.parameters.values(), self.max_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return float(norm)

    def optimizer_state(self) -> dict[str, Tensor]:
        """See `Runner`."""
        states = {name: self.optimizer.state[item] for name, item in self.parameters.items()}
        if not all(states.values()):
            return {}  # no step was made yet
        found = {f"{moment}.{name}": state[moment] for name, state in states.items() for moment in MOMENTS}
        scale = self.scaler.state_dict()
        if scale:
            found["scaler"] = torch.tensor([scale["scale"], scale["_growth_tracker"]], dtype=torch.float64)
        return found | {"step": next(iter(states.values()))["step"]}

    def load_optimizer_state(self, state: Mapping[str, Tensor]) -> None:
        """See `Runner`."""
        self._check_state(state)
        for name, parameter in self.parameters.items():
            moments = {moment: state[f"{moment}.{name}"].to(parameter.device, copy=True) for moment in MOMENTS}
            self.optimizer.state[parameter] = {"step": state["step"].clone(), **moments}
        if self.scaler.is_enabled() and "scaler" in state:
            scale, growth = state["scaler"].tolist()
            self.scaler.load_state_dict(self.scaler.state_dict() | {"scale": scale, "_growth_tracker": int(growth)})

"""How a step is computed: in one process, by DDP, or by DeepSpeed's ZeRO. The only file that knows which.

Processes are started by torchrun, `accelerate launch` or `deepspeed`, which say in the environment who is who. Every
strategy computes the gradient of the same global batch: a process adds its part of the sum, and losses come divided by
what all processes have together (`mllmseg/train/steps.py`), so nothing is averaged twice.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mllmseg.config import EngineConfig, StageConfig
from mllmseg.distributed import this_process
from mllmseg.errors import ConfigError
from mllmseg.train import deepspeed_config
from mllmseg.train.runners import MOMENTS, Figures, PlainRunner, Runner

# One process may fill a cache or validate while the others wait for it.
PATIENCE = timedelta(hours=3)


class ZeroRunner(Runner):
    """DeepSpeed's ZeRO.

    Its optimizer keeps a flat piece of every parameter group (stages 1 and 2) or of every parameter (3) a process.
    """

    def __init__(
        self,
        module: nn.Module,
        parameters: Mapping[str, nn.Parameter],
        optimizer: torch.optim.Optimizer,
        *,
        processes: int,
        settings: dict[str, Any],
    ) -> None:
        import deepspeed

        self.processes = processes
        self.shapes = {name: parameter.shape for name, parameter in parameters.items()}
        # DeepSpeed sends every parameter around as bytes, which fails for one without dimensions.
        self.scalars = [parameter for parameter in module.parameters() if not parameter.ndim]
        for parameter in self.scalars:
            parameter.data = parameter.data.view(1)
        self.engine, self.zero, _, _ = deepspeed.initialize(
            model=module, optimizer=optimizer, config=settings, dist_init_required=False
        )
        super().__init__(parameters, self.zero)
        self.sharded = hasattr(self.zero, "fp32_partitioned_groups_flat")
        self._make_states(torch.tensor(0.0))

    def backpropagate(self, batches: Sequence[tuple[Any, ...]]) -> list[Figures]:
        """See `Runner`."""
        found = []
        for number, batch in enumerate(batches, start=1):
            loss, figures = self.engine(*batch)
            self.engine.backward(loss * self.processes, scale_wrt_gas=False)  # DeepSpeed takes the mean over processes
            if number < len(batches):
                self.engine.step()  # counts micro-batches; the last one's, in `step`, updates
            found.append(figures)
        return found

    def step(self) -> float:
        """See `Runner`."""
        self.engine.step()
        return float(self.engine.get_global_grad_norm() or 0.0)

    @contextmanager
    def as_built(self) -> Iterator[None]:
        """See `Runner`."""
        with self._whole():
            for parameter in self.scalars:
                parameter.data = parameter.data.view(())
            yield
            for parameter in self.scalars:
                parameter.data = parameter.data.view(1)

    def close(self) -> None:
        """See `Runner`. After ZeRO-3 the model stays divided: it comes together, and apart, where it is read."""
        if not self.sharded:
            for parameter in self.scalars:
                parameter.data = parameter.data.view(())
            self.engine.destroy()

    def _whole(self) -> AbstractContextManager[Any]:
        """Within this context, every process has all of what ZeRO-3 trains."""
        import deepspeed

        return deepspeed.zero.GatheredParameters(list(self.parameters.values()), enabled=self.sharded)

    def optimizer_state(self) -> dict[str, Tensor]:
        """See `Runner`."""
        from deepspeed.utils import safe_get_full_optimizer_state

        step = next(iter(self.zero.optimizer.state.values()))["step"]
        if not step:
            return {}
        found = {
            f"{moment}.{name}": safe_get_full_optimizer_state(parameter, moment).view(self.shapes[name])
            for name, parameter in self.parameters.items()
            for moment in MOMENTS
        }
        return found | {"step": step}

    def load_optimizer_state(self, state: Mapping[str, Tensor]) -> None:
        """See `Runner`."""
        from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

        self._check_state(state)
        self._make_states(state["step"])
        for name, parameter in self.parameters.items():
            for moment in MOMENTS:
                value = state[f"{moment}.{name}"].to(parameter.device)
                if (
                    self.sharded
                ):  # DeepSpeed's own function for whole values cannot divide what is no multiple of processes
                    safe_set_local_optimizer_state(parameter, _piece(value, self.processes), moment)
                else:
                    safe_set_full_optimizer_state(parameter, value, moment)

    def _make_states(self, step: Tensor) -> None:
        """Gives the optimizer empty moments, which it else makes in its first step.

        Only then could they be loaded; and with several groups, DeepSpeed finds those of the first one alone.
        """
        pieces = self.zero.fp32_partitioned_groups_flat if self.sharded else self.zero.single_partition_of_fp32_groups
        for flat in pieces:
            empty = {moment: torch.zeros_like(flat, requires_grad=False) for moment in MOMENTS}
            self.zero.optimizer.state[flat] = {"step": step.clone(), **empty}
        if not self.sharded:
            self.zero._hp_optimizer_states_linked = False
            self.zero._lazy_init_hp_params_optimizer_state()


class Engine:
    """This process among the others of a run.

    Attributes:
        rank, processes: which, of how many.
        device: where it computes.
        strategy: `single`, `ddp` or `deepspeed`.
    """

    def __init__(self, config: EngineConfig, precision: str) -> None:
        """Joins the other processes.

        Raises:
            ConfigError: the strategy does not fit the launcher or the machine, or the processes do not find each other.
        """
        process = this_process()
        self.config = config
        self.precision = precision
        self.strategy = _strategy(config, process.count)
        self.zero = deepspeed_config.load(config.deepspeed or "") if self.strategy == "deepspeed" else {}
        use_cuda = torch.cuda.is_available() if config.device == "auto" else config.device == "cuda"
        if use_cuda and process.local >= torch.cuda.device_count():
            raise ConfigError(f"process {process.local} of this machine, but {torch.cuda.device_count()} CUDA devices")
        self.device = torch.device("cuda", process.local) if use_cuda else torch.device("cpu")
        self.rank, self.processes = process.rank, process.count
        if self.strategy != "single":
            self._join()

    @property
    def is_main(self) -> bool:
        """Whether this process writes what all would write alike."""
        return self.rank == 0

    @property
    def shards_model(self) -> bool:
        """Whether the frozen language model is divided among processes."""
        return bool(self.zero) and self.zero["zero_optimization"]["stage"] == 3

    def prepare(
        self,
        module: nn.Module,
        parameters: Mapping[str, nn.Parameter],
        optimizer: torch.optim.Optimizer,
        stage: StageConfig,
        *,
        shard: bool,
    ) -> Runner:
        """Wraps a module and its optimizer for the steps of a stage; `shard`: whether it holds the language model."""
        half = self.precision == "float16"
        if self.strategy != "deepspeed":
            options: dict[str, Any] = {"max_grad_norm": stage.max_grad_norm, "half": half}
            return PlainRunner(module, parameters, optimizer, processes=self.processes, **options)
        settings = deepspeed_config.fill(
            self.zero,
            stage,
            processes=self.processes,
            accumulate=self.config.accumulate,
            half=half,
            largest_trained=max(item.numel() for item in parameters.values()),
            shard=shard,
        )
        return ZeroRunner(module, parameters, optimizer, processes=self.processes, settings=settings)

    def sum(self, values: Sequence[float]) -> list[float]:
        """Each value added up over all processes."""
        if self.strategy == "single":
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return total.tolist()

    def gather(self, value: Any) -> list[Any]:
        """What every process has, in the order of ranks."""
        if self.strategy == "single":
            return [value]
        found: list[Any] = [None] * self.processes
        dist.all_gather_object(found, value)
        return found

    def barrier(self) -> None:
        """Waits until every process is here."""
        self.sum([0.0])

    def _join(self) -> None:
        from accelerate import PartialState

        if self.device.type == "cpu":  # before anything of DeepSpeed's is imported
            os.environ.setdefault("DS_ACCELERATOR", "cpu")
        if "RANK" not in os.environ:
            _be_alone()
        backend = "gloo" if self.device.type == "cpu" else "nccl"
        state = PartialState(cpu=self.device.type == "cpu", backend=backend, timeout=PATIENCE)
        if self.strategy == "deepspeed":
            _init_deepspeed(self.device, backend)
        found = dist.get_world_size() if dist.is_initialized() else 1
        if (state.num_processes, found) != (self.processes, self.processes):
            raise ConfigError(
                f"WORLD_SIZE is {self.processes}, but accelerate counts {state.num_processes} processes and torch "
                f"{found}: each would train on its own. Start the run with torchrun, accelerate launch or deepspeed"
            )


def _strategy(config: EngineConfig, processes: int) -> str:
    strategy = config.strategy
    if strategy == "auto":
        strategy = "deepspeed" if config.deepspeed else "ddp" if processes > 1 else "single"
    if strategy == "single" and processes > 1:
        raise ConfigError(f"engine.strategy is 'single', but a launcher started {processes} processes: use ddp or auto")
    if strategy == "ddp" and processes == 1 and "RANK" not in os.environ:
        raise ConfigError("engine.strategy is 'ddp', but no launcher started this: use torchrun, or 'auto'")
    if (strategy == "deepspeed") != bool(config.deepspeed):
        raise ConfigError(
            f"engine.strategy is '{config.strategy}' and engine.deepspeed {config.deepspeed!r}: DeepSpeed needs a file "
            "such as configs/deepspeed/zero2.json, and the others none"
        )
    return strategy


def _be_alone() -> None:
    """Says in the environment what a launcher would say to a single process: DeepSpeed wants to hear it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    alone = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ.update(alone)


def _init_deepspeed(device: torch.device, backend: str) -> None:
    try:
        import deepspeed
        from deepspeed.ops import __compatible_ops__
    except ImportError as error:
        raise ConfigError("engine.deepspeed is set, but deepspeed is missing: pip install 'mllmseg[train]'") from error
    deepspeed.logger.setLevel("WARNING")
    if device.type == "cpu":
        # A faster all-reduce between the processes of one machine, but compiled at first use, which takes minutes.
        __compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, timeout=PATIENCE)


def _piece(value: Tensor, processes: int) -> Tensor:
    """This process's piece of a tensor that ZeRO-3 divides: equal pieces, the last one padded with zeros."""
    size = -(-value.numel() // processes)
    padded = nn.functional.pad(value.flatten(), (0, size * processes - value.numel()))
    return padded.narrow(0, size * dist.get_rank(), size)

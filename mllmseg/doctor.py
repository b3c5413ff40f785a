"""`mllmseg doctor`: look at this machine, say what is wrong and what to do about it."""

from __future__ import annotations

import enum
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

from mllmseg import weights
from mllmseg.errors import WeightsError

PYTHON_MINIMUM = (3, 11)
DISK_BYTES = 2_000_000_000  # the tiny preset's weights, plus room to convert one of them
MEMORY_BYTES = 3_000_000_000  # the tiny preset's models in float32 and one image
_OPTIONAL = ("bitsandbytes", "deepspeed", "gradio", "tensorboard")


class Level(enum.Enum):
    """How bad a finding is; only `PROBLEM` makes `mllmseg doctor` fail."""

    OK = "ok"
    NOTE = "note"
    PROBLEM = "problem"


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        subject: what was looked at.
        level: how bad it is.
        detail: what was found.
        remedy: what to do, empty where nothing needs doing.
    """

    subject: str
    level: Level
    detail: str
    remedy: str = ""


def examine() -> list[Finding]:
    """Run every check; one that breaks is itself reported as a problem."""
    findings: list[Finding] = []
    checks: tuple[Callable[[], list[Finding]], ...] = (
        check_python,
        check_packages,
        check_torchvision,
        check_devices,
        check_memory,
        check_disk,
        check_weights,
    )
    for check in checks:
        try:
            findings.extend(check())
        except Exception as error:  # a doctor that crashes on an odd machine helps nobody
            subject = check.__name__.removeprefix("check_")
            findings.append(Finding(subject, Level.PROBLEM, f"the check itself failed: {error!r}", "report this"))
    return findings


def check_python() -> list[Finding]:
    """Python's version."""
    found = platform.python_version()
    if sys.version_info < PYTHON_MINIMUM:
        needed = ".".join(map(str, PYTHON_MINIMUM))
        return [Finding("python", Level.PROBLEM, found, f"install Python {needed} or newer")]
    return [Finding("python", Level.OK, f"{found} on {platform.system()} {platform.machine()}")]


def check_packages() -> list[Finding]:
    """Installed versions against the ranges this package declares."""
    from packaging.requirements import Requirement  # comes with transformers

    try:
        requirements = importlib.metadata.requires("mllmseg") or []
    except importlib.metadata.PackageNotFoundError:
        detail = "runs from source without being installed, so versions cannot be compared"
        return [Finding("mllmseg", Level.NOTE, detail, "pip install -e . in the project's folder")]
    findings = []
    for line in requirements:
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            found = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            findings.append(Finding(requirement.name, Level.PROBLEM, "not installed", f"pip install '{line}'"))
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            detail = f"{found}, needs {requirement.specifier}"
            findings.append(Finding(requirement.name, Level.PROBLEM, detail, f"pip install '{line}'"))
        elif requirement.name in ("torch", "transformers", "peft", "accelerate", "segment-anything"):
            findings.append(Finding(requirement.name, Level.OK, found))
    for name in _OPTIONAL:
        if importlib.util.find_spec(name) is not None:
            findings.append(Finding(name, Level.OK, f"{importlib.metadata.version(name)} (optional)"))
    return findings


def check_torchvision() -> list[Finding]:
    """A torchvision that is installed but cannot be imported takes all of transformers down with it."""
    if importlib.util.find_spec("torchvision") is None:
        return [Finding("torchvision", Level.OK, "not installed, not needed")]
    version = importlib.metadata.version("torchvision")
    trial = subprocess.run(  # in its own process: a half-imported torchvision would stay in ours
        [sys.executable, "-c", "import torchvision"], capture_output=True, text=True, timeout=120, check=False
    )
    if trial.returncode == 0:
        return [Finding("torchvision", Level.OK, version)]
    reason = (trial.stderr.strip().splitlines() or ["no message"])[-1]
    return [
        Finding(
            "torchvision",
            Level.PROBLEM,
            f"{version} is installed but cannot be imported ({reason}); transformers then fails to import as well",
            "pip uninstall torchvision, or install the build that belongs to your torch",
        )
    ]


def check_devices() -> list[Finding]:
    """What torch can compute on."""
    import torch

    findings = []
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            detail = f"{properties.name}, {properties.total_memory / 1e9:.0f} GB"
            findings.append(Finding(f"cuda:{index}", Level.OK, detail))
    elif torch.version.cuda is not None and shutil.which("nvidia-smi"):
        findings.append(
            Finding(
                "cuda",
                Level.PROBLEM,
                f"torch is built for CUDA {torch.version.cuda} but sees no device",
                "compare with the driver's version in `nvidia-smi`; install the torch build for that CUDA",
            )
        )
    if torch.backends.mps.is_available():
        findings.append(Finding("mps", Level.OK, "Apple GPU"))
    findings.append(Finding("cpu", Level.OK, f"{os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads"))
    return findings


def check_memory() -> list[Finding]:
    """Memory that is free now."""
    import psutil

    memory = psutil.virtual_memory()
    detail = f"{memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB free"
    if memory.available < MEMORY_BYTES:
        return [
            Finding("memory", Level.PROBLEM, detail, f"close other programs: {MEMORY_BYTES / 1e9:.0f} GB are needed")
        ]
    return [Finding("memory", Level.OK, detail)]


def check_disk() -> list[Finding]:
    """Room in the cache, and whether it can be written."""
    cache = weights.cache_dir()
    folder = next(path for path in (cache, *cache.parents) if path.exists())
    free = shutil.disk_usage(folder).free
    detail = f"{free / 1e9:.1f} GB free in {cache}"
    complete = all(status.present for status in weights.list_weights())
    if not complete and not os.access(folder, os.W_OK):
        return [Finding("disk", Level.PROBLEM, f"{folder} cannot be written", "set MLLMSEG_CACHE to another folder")]
    if not complete and free < DISK_BYTES:
        remedy = f"free {DISK_BYTES / 1e9:.0f} GB there, or set MLLMSEG_CACHE to another folder"
        return [Finding("disk", Level.PROBLEM, detail, remedy)]
    return [Finding("disk", Level.OK, detail)]


def check_weights() -> list[Finding]:
    """Every known set of weights, read through and compared with its digest."""
    findings = []
    for status in weights.list_weights():
        name = status.weights.name
        if not status.path.exists():
            detail = f"not in the cache {status.path.parent}"
            findings.append(Finding(name, Level.PROBLEM, detail, f"mllmseg weights fetch {name}"))
            continue
        try:
            findings.append(Finding(name, Level.OK, f"{weights.verify(name)}, verified"))
        except WeightsError as error:
            problem, _, remedy = str(error).partition("; ")
            findings.append(Finding(name, Level.PROBLEM, problem, re.sub(r"`", "", remedy)))
    return findings

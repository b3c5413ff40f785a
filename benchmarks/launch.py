"""The command lines that benchmarks run: those a user would type."""

from __future__ import annotations

import sys


def command_line(*arguments: str, processes: int = 1) -> list[str]:
    """A command of ours, on several processes of this machine where asked for."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    return [sys.executable, *(launcher if processes > 1 else []), "-m", "mllmseg.cli", *arguments]

import subprocess
import sys

import pytest

# Ten tensors of 64 MiB, one after the other: without the thresholds each faults its 16,384 pages in anew.
SCRIPT = """
import resource, torch
from mllmseg.models.allocator import keep_freed_memory
took = {call}
for _ in range(10):  # until the heap has a hole of the right size
    torch.ones(1 << 24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(1 << 24)
print(took, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def run(call):
    answer = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(call=call)], capture_output=True, text=True, check=True, timeout=120
    )
    took, faults = answer.stdout.split()
    return took == "True", int(faults)


def test_freed_memory_is_used_again():
    took, faults = run("keep_freed_memory()")
    if not took:
        pytest.skip("this C library has no mallopt")
    assert faults < run("False")[1] / 2

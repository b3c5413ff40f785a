"""What can be compiled is; what cannot runs as it is, and says why."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mllmseg.config import SuperpixelConfig
from mllmseg.models.compiled import Compiled
from mllmseg.models.sam import Sam
from mllmseg.models.superpixels import SuperpixelGenerator
from mllmseg.structures import ImageInputs

# Where there is no compiler; a process of its own, because Inductor remembers what it found.
WITHOUT_COMPILER = """
import logging, torch
from mllmseg.models.compiled import Compiled
logging.basicConfig(format="%(name)s: %(message)s")
function, x = Compiled(lambda x: 2 * x.sin(), "Twice the sine"), torch.linspace(0, 1, 7)
for _ in range(2):
    torch.testing.assert_close(function(x), 2 * x.sin())
assert function.failed
"""


@pytest.mark.slow
def test_without_a_compiler_it_runs_plainly_and_says_so_once(tmp_path: Path) -> None:
    environment = os.environ | {"CXX": "no-such-compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_COMPILER], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("mllmseg.")]
    assert len(said) == 1
    assert "Twice the sine runs without torch.compile" in said[0]
    assert "compiler" in said[0].lower().replace("torch.compile", "")


def test_what_the_function_itself_refuses_stays_refused() -> None:
    def refuse(x: Tensor) -> Tensor:
        raise ValueError(f"{x.dim()} dimensions are too few")

    with pytest.raises(Exception, match="1 dimensions"):
        Compiled(refuse, "It")(torch.zeros(3))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_compiled_superpixels_are_the_same(
    mobile_sam: Sam, astronaut: ImageInputs, astronaut_embeddings: Tensor
) -> None:
    found = []
    for compiled in (False, True):
        # 9 points in batches of 4: the last one has to be filled up.
        generator = SuperpixelGenerator(
            mobile_sam,
            SuperpixelConfig(points_per_side=3, points_per_batch=4, max_covering_fraction=None, dtype="float32"),
        )
        generator.compiled = compiled
        found.append(generator.propose(astronaut_embeddings, astronaut.input_size))
        decoder = generator.decoder(torch.device("cpu"))
        assert decoder.points_decoded == 9
        assert getattr(decoder._attend, "failed", None) == getattr(decoder._upscale, "failed", None)
        assert getattr(decoder._attend, "failed", None) is (False if compiled else None)
    plain, fast = found
    assert len(plain.masks) == len(fast.masks) > 5
    assert (plain.masks == fast.masks).float().mean() > 0.9999
    torch.testing.assert_close(plain.scores, fast.scores, atol=1e-4, rtol=0)

"""The script that measures a GPU: its arithmetic here, its numbers where there is one."""

from __future__ import annotations

import sys
from collections import Counter
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from typer.testing import CliRunner

from mllmseg.config import SamConfig, SuperpixelConfig
from mllmseg.models.sam import build_sam
from mllmseg.models.superpixels import SuperpixelGenerator

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        import gpu_roofline
    return gpu_roofline


@pytest.fixture(scope="module")
def roofline(script: ModuleType) -> ModuleType:
    return sys.modules["roofline"]


def test_flop_are_those_of_the_products(roofline: ModuleType) -> None:
    x = torch.randn(2, 3, 5)
    heads = torch.randn(1, 2, 7, 4)
    linear = nn.Linear(5, 11)
    with torch.no_grad():
        assert roofline.count_flop(lambda: linear(x)) == 2 * 6 * 5 * 11
        assert roofline.count_flop(lambda: torch.zeros(2, 3, 3).baddbmm_(x, x.mT)) == 2 * 2 * 3 * 5 * 3
        assert roofline.count_flop(lambda: F.scaled_dot_product_attention(heads, heads, heads)) == 2 * 2 * 2 * 7 * 7 * 4


def test_what_reads_more_than_it_computes_is_bound_by_memory(roofline: ModuleType) -> None:
    roof = roofline.Roof(flops=100e12, bandwidth=1e12)
    decode = roofline.Row("decode", seconds=0.02, flop=14e9, num_bytes=14e9).markdown(roof)
    prefill = roofline.Row("prefill", seconds=0.2, flop=8e12, num_bytes=14e9).markdown(roof)
    assert decode == "| decode | 20.00 | 14.0 | 0.7 | 700 | memory | 70.0% |"
    assert prefill.endswith("| arithmetic | 40.0% |")


def test_a_machine_has_limits_and_a_tiny_model_stays_below_them(script: ModuleType, roofline: ModuleType) -> None:
    roof = roofline.measure_roof(CPU, small=True)
    host = script.language_model(script.SMALL, CPU)
    with torch.no_grad():
        rows = script.prefill_and_decode(host, script.SMALL, CPU)
    assert len(rows) == 4 * len(script.SMALL.prefill)
    assert all(row.seconds > 0 and row.flop > 0 and row.num_bytes > 0 for row in rows)
    text = script.page(CPU, roof, rows, ["| tiny: a question | none |"], "random weights", script.SMALL)
    assert "A trial run on the CPU, not a result" in text
    assert text.count("| prefill: 36 visual tokens") == 2


def test_a_gpu_would_be_waited_for_as_often_for_many_points_as_for_few(roofline: ModuleType) -> None:
    torch.manual_seed(0)
    sam = build_sam(SamConfig(checkpoint=None), None)
    embeddings = torch.randn(1, 256, 64, 64)
    waits: list[Counter[str]] = []
    for side in (2, 5):
        config = SuperpixelConfig(points_per_side=side, pred_iou_threshold=-9.0, stability_threshold=-1.0)
        generator = SuperpixelGenerator(sam, config)
        propose = partial(generator.propose, embeddings, (1024, 1024), at_once=True)
        waits.append(roofline.count_waits(propose, CPU))
    assert waits[0] == waits[1]
    assert 0 < sum(waits[0].values()) <= 4


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to measure")
def test_without_a_gpu_nothing_is_measured(script: ModuleType, tmp_path: Path) -> None:
    import typer

    app = typer.Typer()
    app.command()(script.main)
    result = CliRunner().invoke(app, ["--out", str(tmp_path / "page.md")])
    assert result.exit_code == 1
    assert "finds no GPU here" in result.stderr
    assert not list(tmp_path.iterdir())

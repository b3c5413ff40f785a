"""One job, done by one process or by several that meet through files."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from mllmseg.distributed import Process
from mllmseg.errors import ConfigError, DataError
from mllmseg.eval import job as job_module
from mllmseg.eval.job import Model, PredictionJob, run_job
from mllmseg.eval.manifest import Shard, read_manifest

ALONE = Process(0, 1, 0)


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return Model(tmp_path / "tiny", torch.device("cpu"), torch.float32, "abc")


@pytest.fixture
def answerers(monkeypatch: pytest.MonkeyPatch, fake: Any) -> list[Any]:
    """The stand-ins that were made, one for each time the model was loaded."""
    made: list[Any] = []

    def make(segmenter: Any, mode: str, threshold: float) -> Any:
        made.append(fake())
        return made[-1]

    monkeypatch.setattr(job_module, "SegmenterAnswerer", make)
    return made


def run(dataset: Any, model: Model, out: Path, process: Process = ALONE, **options: Any) -> None:
    resume = options.pop("resume", False)
    job = PredictionJob(dataset, options.pop("mode", "scored"), 0.5, out, **options)
    run_job(job, model, process, lambda: None, resume=resume, progress=False)  # type: ignore[arg-type,return-value]


@pytest.mark.parametrize("count", [2, 3, 6])
def test_processes_meet_in_one_file(
    made_up: Any, model: Model, answerers: list[Any], tmp_path: Path, count: int
) -> None:
    run(made_up, model, tmp_path / "whole.jsonl")
    out = tmp_path / "p.jsonl"
    threads = [
        threading.Thread(target=run, args=(made_up, model, out, Process(rank, count, rank))) for rank in range(count)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert read_manifest(out) == read_manifest(tmp_path / "whole.jsonl")
    left = {path.name for path in tmp_path.iterdir()} - {"images"}
    assert left == {f"{name}.jsonl{kind}" for name in ("p", "whole") for kind in ("", ".meta.json")}
    assert sum(len(item.asked) for item in answerers) == 8, "each image once, twice over"


def test_done_is_done_for_all_processes(made_up: Any, model: Model, answerers: list[Any], tmp_path: Path) -> None:
    run(made_up, model, tmp_path / "p.jsonl")
    run(made_up, model, tmp_path / "p.jsonl", Process(1, 2, 1), resume=True)
    run(made_up, model, tmp_path / "p.jsonl", resume=True)
    assert len(answerers) == 1, "the model is not loaded for nothing"
    with pytest.raises(DataError, match="exists; go on with it by --resume"):
        run(made_up, model, tmp_path / "p.jsonl", Process(1, 2, 1))
    with pytest.raises(DataError, match="mode is 'scored', not 'free'"):
        run(made_up, model, tmp_path / "p.jsonl", Process(1, 2, 1), mode="free", resume=True)


def test_an_unfinished_file_of_one_process_is_not_taken_for_done(
    made_up: Any, model: Model, answerers: list[Any], monkeypatch: pytest.MonkeyPatch, fake: Any, tmp_path: Path
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(job_module, "SegmenterAnswerer", lambda *_: fake(1))
        with pytest.raises(KeyboardInterrupt):
            run(made_up, model, tmp_path / "p.jsonl")
    with pytest.raises(DataError, match=r"p\.jsonl: begun by one process; finish it with one"):
        run(made_up, model, tmp_path / "p.jsonl", Process(1, 2, 1), resume=True)


def test_a_shard_of_a_process_is_a_contradiction(made_up: Any, model: Model, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--shard 1/2: 2 processes share the images already"):
        run(made_up, model, tmp_path / "p.jsonl", Process(0, 2, 0), shard=Shard(1, 2))


def test_teacher_forcing_has_no_threshold(made_up: Any, model: Model, tmp_path: Path) -> None:
    jobs = [PredictionJob(made_up, mode, 0.4, tmp_path / "p") for mode in ("scored", "free", "teacher")]  # type: ignore[arg-type]
    assert [job.manifest(model, Shard()).threshold for job in jobs] == [0.4, 0.4, None]
    assert jobs[0].manifest(model, Shard()).dtype == "float32"


def test_a_model_is_known_by_its_files(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"1")
    first = Model.find(tmp_path, "cpu", "bfloat16", ALONE)
    assert (first.device, first.dtype) == (torch.device("cpu"), torch.bfloat16)
    (tmp_path / "model.safetensors").write_bytes(b"2")
    assert Model.find(tmp_path, "cpu", None, ALONE).weights_sha256 != first.weights_sha256


def test_a_run_goes_on_with_the_threads_it_began_with(
    made_up: Any, model: Model, answerers: list[Any], monkeypatch: pytest.MonkeyPatch, fake: Any, tmp_path: Path
) -> None:
    """Another number of threads rounds some sums another way, and a mask's edge moves by a pixel."""
    used: list[int] = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 5)
    monkeypatch.setattr(torch, "set_num_threads", used.append)
    with monkeypatch.context() as patch:
        patch.setattr(job_module, "SegmenterAnswerer", lambda *_: fake(1))
        with pytest.raises(KeyboardInterrupt):
            run(made_up, model, tmp_path / "p.jsonl")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    run(made_up, model, tmp_path / "p.jsonl", resume=True)
    assert (used, read_manifest(tmp_path / "p.jsonl").threads) == ([5, 5], 5)
    run(made_up, dataclasses.replace(model, threads=3), tmp_path / "q.jsonl")
    assert (used[2:], read_manifest(tmp_path / "q.jsonl").threads) == ([3], 3)

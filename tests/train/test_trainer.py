"""Short runs on drawn photos: exact resume, whose folder is whose, what each stage trains."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mllmseg.config import DataConfig, EngineConfig, ModelConfig, PointConfig, StageConfig, TrainConfig
from mllmseg.errors import CheckpointError, ConfigError, DataError, InterruptedRunError, TrainingError
from mllmseg.models.build import build_model
from mllmseg.models.checkpoint import load_checkpoint, trained_state
from mllmseg.train.cache import CacheEntry, FillReport
from mllmseg.train.pointing import Recording
from mllmseg.train.run_folder import folder_problem
from mllmseg.train.stage_module import prepare_precision
from mllmseg.train.stages import Align, Stage
from mllmseg.train.trainer import Trainer, fill_cache

Settings = Callable[..., TrainConfig]
POINT = PointConfig(steps=4, batch_size=2, rounds=2, warmup_steps=1)


class Killed(BaseException):
    """Nothing in the trainer catches this, as nothing catches SIGKILL."""


def run(settings: TrainConfig, *, resume: bool = False, die: tuple[str, int] | None = None) -> Trainer:
    """Runs to the end, or dies in the step with this number of this stage (0: its first)."""
    trainer = Trainer(settings, resume=resume)
    if die is None:
        trainer.run()
        return trainer
    healthy = trainer._step

    def mortal(stage: Stage, step: int, *args: Any) -> None:
        if (stage.name, step) == die:
            raise Killed
        healthy(stage, step, *args)

    trainer._step = mortal  # type: ignore[method-assign]
    with pytest.raises(Killed):
        trainer.run()
    return trainer


def weights_of(trainer: Trainer) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in trained_state(trainer.model).items()}


@pytest.fixture(scope="module")
def finished(run_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    """A run that was never stopped, validated on the way."""
    return run(run_settings(tmp_path_factory.mktemp("finished"), val_photos=2, val_every=2))


def test_a_run_leaves_a_checkpoint_its_settings_and_its_figures(finished: Trainer) -> None:
    model = load_checkpoint(finished.out / "final")
    # Saved in float32, read into float32: bit for bit.
    assert all(tensor.equal(trained_state(model)[name]) for name, tensor in weights_of(finished).items())
    assert TrainConfig.from_yaml(finished.out / "train.yaml") == finished.config
    assert ModelConfig.from_yaml(finished.out / "model.yaml") == finished.model_config
    facts = json.loads((finished.out / "final" / "training.json").read_text())
    assert (facts["stage"], facts["step"], facts["photos"]) == ("instruct", 4, 2)
    assert facts["config"] == finished.config.model_dump(mode="json")
    for step in (2, 4):
        lines = (finished.out / "val" / f"step-{step:06d}.jsonl").read_text().splitlines()
        assert len(lines) == 4, "two sentences about each of two photos"
        assert (finished.out / "val" / f"step-{step:06d}-4.jpg").is_file()
    assert any((finished.out / "tensorboard").iterdir())


def test_held_out_photos_calibrate_and_are_not_trained_on(finished: Trainer) -> None:
    assert [photo.path.stem for photo in finished.data.holdout] == ["3"]
    assert [photo.path.stem for photo in finished.data.photos] == ["1", "2"]
    assert finished.model.head.get_buffer("calibration").tolist() != [1, 0]


@pytest.mark.parametrize(
    "deaths",
    [[("align", 1)], [("align", 2)], [("instruct", 0)], [("align", 2), ("instruct", 3)]],
    ids=["before anything is saved", "in align", "between the stages", "twice"],
)
def test_a_resumed_run_is_bit_for_bit_the_run_that_was_never_stopped(
    finished: Trainer, run_settings: Settings, tmp_path: Path, deaths: list[tuple[str, int]]
) -> None:
    settings = run_settings(tmp_path / "run")
    for number, death in enumerate(deaths):
        run(settings, resume=number > 0, die=death)
    resumed = weights_of(run(settings, resume=True))
    expected = weights_of(finished)
    assert resumed.keys() == expected.keys()
    assert [name for name, tensor in resumed.items() if not tensor.equal(expected[name])] == []


@pytest.fixture(scope="module")
def pointed(run_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    """A run with all three stages that was never stopped."""
    return run(run_settings(tmp_path_factory.mktemp("pointed"), point=POINT, cache_workers=1))


def test_the_point_stage_trains_the_head_alone_on_recordings(finished: Trainer, pointed: Trainer) -> None:
    expected = {f"{photo.file_name}-{number}.safetensors" for photo in pointed.data.photos for number in range(2)}
    assert {path.name for path in pointed.readings.folder.iterdir()} == expected, "no photo that is held out"
    readings = [Recording.load(pointed.readings.path(*reading)) for reading in pointed.readings.all()]
    assert [bool(reading.flipped) for reading in readings] == [False, False, True, True], "odd rounds are mirrored"
    for reading in readings:
        assert len(reading.exists) == len(reading.decision_positions) == len(reading.decision_hidden)
        assert int(reading.exists.sum()) == len(reading.masks) == len(reading.seg_positions)
        rejected = reading.input_ids[reading.decision_positions + 1] == pointed.model.mllm.rej_token_id
        assert rejected.equal(~reading.exists)
    # Up to there the run is the one without this stage.
    before, after = weights_of(finished), weights_of(pointed)
    changed = {name for name, tensor in after.items() if not tensor.equal(before[name])}
    prompt = ("head.prompt", "head.prior_weight")
    assert changed == {name for name in after if name.startswith("head.") and not name.startswith(prompt)}
    facts = json.loads((pointed.out / "final" / "training.json").read_text())
    assert (facts["stage"], facts["step"]) == ("point", 4)


@pytest.mark.parametrize("death", [("point", 0), ("point", 3)], ids=["before it", "in it"])
def test_a_resumed_point_stage_is_bit_for_bit_the_one_that_was_never_stopped(
    pointed: Trainer, run_settings: Settings, tmp_path: Path, death: tuple[str, int]
) -> None:
    settings = run_settings(tmp_path / "run", point=POINT, cache_workers=1)
    stopped = run(settings, die=death)
    lost = stopped.readings.path(*stopped.readings.all()[-1])
    lost.unlink()  # made again, and alike, whatever the head has learned since
    made = {path: path.stat().st_mtime_ns for path in stopped.readings.folder.iterdir()}
    resumed = run(settings, resume=True)
    assert lost.exists()
    assert all(path.stat().st_mtime_ns == when for path, when in made.items()), "what is recorded stays"
    expected = weights_of(pointed)
    assert [name for name, tensor in weights_of(resumed).items() if not tensor.equal(expected[name])] == []


def test_a_recording_that_cannot_be_made_is_missed(
    pointed: Trainer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(pointed.readings, "folder", tmp_path / "recordings")
    monkeypatch.setattr(pointed.readings, "record", lambda *_: None)
    with pytest.raises(DataError, match=f"4 recordings could not be made in {tmp_path / 'recordings'}"):
        pointed.record()


def test_a_process_that_comes_late_still_records_its_share(
    pointed: Trainer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    readings = pointed.readings
    monkeypatch.setattr(readings, "folder", tmp_path / "recordings")
    for rank in range(2):  # one after the other: the second looks when the first has made all of its own
        readings.record(pointed.model, rank, 2)
    assert readings.all()
    assert not readings.missing()


def test_another_seed_gives_another_run(finished: Trainer, run_settings: Settings, tmp_path: Path) -> None:
    other = weights_of(run(run_settings(tmp_path, seed=1)))
    assert not any(tensor.equal(other[name]) for name, tensor in weights_of(finished).items() if tensor.numel() > 1)


def test_refine_trains_the_prompt_alone(pointed: Trainer, run_settings: Settings, tmp_path: Path) -> None:
    refine = StageConfig(steps=2, batch_size=2, warmup_steps=1)
    refined = run(run_settings(tmp_path, point=POINT, refine=refine, cache_workers=1))
    before, after = weights_of(pointed), weights_of(refined)
    changed = {name for name, tensor in after.items() if not tensor.equal(before[name])}
    assert changed == {name for name in after if name.startswith(("head.prompt", "head.prior_weight"))}
    facts = json.loads((refined.out / "final" / "training.json").read_text())
    assert (facts["stage"], facts["step"]) == ("refine", 2)


def test_align_trains_projector_and_lexicon_and_instruct_the_rest(run_settings: Settings, tmp_path: Path) -> None:
    trainer = run(run_settings(tmp_path), die=("align", 0))
    before = weights_of(trainer)
    del trainer._step  # healthy again
    trainer.run_stage(Align(trainer.config, trainer.data, trainer.model, trainer.readings))
    changed = {name for name, tensor in weights_of(trainer).items() if not tensor.equal(before[name])}
    assert {name.split(".")[0] for name in changed} == {"projector", "head"}
    of_the_head = {name.split(".")[1] for name in changed if name.startswith("head")}
    assert of_the_head == {"lexicon", "word", "background"}
    after = weights_of(run(trainer.config, resume=True))
    idle = {name for name, tensor in after.items() if tensor.equal(before[name])}
    assert idle == set(), "every trained tensor moves"


def test_a_folder_with_a_run_is_not_continued_unless_asked(finished: Trainer) -> None:
    with pytest.raises(ConfigError, match=r"holds a run already: resume it \(--resume\) or choose another 'out'"):
        Trainer(finished.config)


def test_a_folder_whose_run_saved_nothing_may_be_deleted(run_settings: Settings, tmp_path: Path) -> None:
    config, model = run_settings(tmp_path), ModelConfig()
    (tmp_path / "train.yaml").touch()
    assert "or delete the folder" in str(folder_problem(tmp_path, config, model, resume=False))
    (tmp_path / "checkpoints").mkdir()
    assert "or delete the folder" not in str(folder_problem(tmp_path, config, model, resume=False))


def test_resuming_needs_a_run(run_settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no run to resume"):
        Trainer(run_settings(tmp_path / "nothing"), resume=True)
    assert not (tmp_path / "nothing").exists()


def test_changed_settings_refuse(finished: Trainer, tmp_path: Path) -> None:
    changed = finished.config.model_copy(update={"seed": 5, "masks_per_photo": 2})
    with pytest.raises(ConfigError, match=r"other settings \(masks_per_photo, seed\)"):
        Trainer(changed, resume=True)
    path = Path(finished.config.model)
    before = path.read_text()
    try:
        head = finished.model_config.head.model_copy(update={"dense_prior": False})
        finished.model_config.model_copy(update={"head": head}).to_yaml(path)
        with pytest.raises(ConfigError, match=r"other settings \(model: head\)"):
            Trainer(finished.config, resume=True)
    finally:
        path.write_text(before)


def test_a_run_that_cannot_start_occupies_no_folder(run_settings: Settings, tmp_path: Path) -> None:
    wrong = run_settings(tmp_path / "out", data=DataConfig(root=str(tmp_path / "nowhere")))
    with pytest.raises(Exception, match="nowhere"):
        Trainer(wrong)
    assert not (tmp_path / "out").exists()
    data = wrong.data.model_copy(update={"root": run_settings(tmp_path).data.root, "holdout_every": 1})
    with pytest.raises(ConfigError, match="3 photos, 3 of them held out"):
        Trainer(wrong.model_copy(update={"data": data}))


def test_a_damaged_state_is_named(run_settings: Settings, tmp_path: Path) -> None:
    settings = run_settings(tmp_path)
    run(settings, die=("align", 2))
    state = tmp_path / "checkpoints" / "align-000002" / "optimizer.safetensors"
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(
        CheckpointError, match=f"{state.parent} is damaged.*remove it to go on from the checkpoint before"
    ):
        Trainer(settings, resume=True)


def test_frozen_weights_are_kept_in_the_training_precision(tiny_config: ModelConfig) -> None:
    model = build_model(tiny_config)
    prepare_precision(model, "float32")
    assert all(item.dtype == torch.float32 for item in model.mllm.parameters())
    prepare_precision(model, "bfloat16")
    assert {item.dtype for item in model.mllm.parameters() if item.requires_grad} == {torch.float32}
    assert {item.dtype for item in model.mllm.parameters() if not item.requires_grad} == {torch.bfloat16}
    assert {item.dtype for item in model.vision.parameters()} == {torch.float32}


def test_filling_the_cache_ahead_names_the_folder(
    run_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def fill(self: object, entries: list[CacheEntry], **_: object) -> FillReport:
        asked.extend(int(entry.path.stem) for entry in entries)
        return FillReport(0, 0, ())

    monkeypatch.setattr("mllmseg.train.cache.FeatureCache.fill", fill)
    cache, _ = fill_cache(run_settings(tmp_path, val_photos=1))
    assert asked == [1, 2, 3, 4]
    assert cache.folder.parent == Path(run_settings(tmp_path).cache)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_polite_signal_saves_at_the_end_of_the_step(
    finished: Trainer, run_settings: Settings, tmp_path: Path, number: signal.Signals
) -> None:
    settings = run_settings(tmp_path / "run", checkpoint_every=99)
    trainer = Trainer(settings)
    healthy = trainer._step

    def disturbed(stage: Stage, step: int, *args: Any) -> None:
        if (stage.name, step) == ("instruct", 1):
            os.kill(os.getpid(), number)
        healthy(stage, step, *args)

    trainer._step = disturbed  # type: ignore[method-assign]
    with pytest.raises(
        InterruptedRunError, match="after 1 steps of instruct, which are saved; go on with --resume"
    ) as stop:
        trainer.run()
    assert stop.value.exit_code == 128 + number
    resumed = run(settings, resume=True)
    expected = weights_of(finished)
    assert [name for name, tensor in weights_of(resumed).items() if not tensor.equal(expected[name])] == []
    assert [entry["step"] for entry in resumed.journal.entries()] == [0, 1, 2, 0, 1, 2, 3]


def test_a_loss_that_is_no_number_stops_before_it_is_saved(run_settings: Settings, tmp_path: Path) -> None:
    trainer = Trainer(run_settings(tmp_path, checkpoint_every=1))
    healthy = trainer._step

    def sick(stage: Stage, step: int, *args: Any) -> None:
        if (stage.name, step) == ("instruct", 2):
            trainer.model.projector.output_norm.weight.data.fill_(float("nan"))
        healthy(stage, step, *args)

    trainer._step = sick  # type: ignore[method-assign]
    said = (
        r"instruct step 2: the loss is nan .*, not finite where \['coco-mini/1', 'coco-mini/2'\] are.*instruct-000002"
    )
    with pytest.raises(TrainingError, match=said):
        trainer.run()
    assert [path.name for path in trainer.checkpoints.all()][-1] == "instruct-000002"


def test_a_loss_above_the_limit_stops(run_settings: Settings, tmp_path: Path) -> None:
    trainer = Trainer(run_settings(tmp_path, max_loss=1e-3))
    with pytest.raises(
        TrainingError, match=r"align step 0: the loss is .*max_loss 0.001.*last good checkpoint is none"
    ):
        trainer.run()
    assert trainer.checkpoints.all() == []


def test_how_a_run_is_computed_may_change_when_it_is_resumed(run_settings: Settings, tmp_path: Path) -> None:
    run(run_settings(tmp_path), die=("align", 2))
    other = run_settings(tmp_path, engine=EngineConfig(accumulate=2), keep_checkpoints=1, log_every=1)
    assert Trainer(other, resume=True).progress.step == 2

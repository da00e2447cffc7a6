"""A run that is killed goes on as if it had not been; damaged checkpoints and full disks cost nothing that was saved."""
import csv
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import tiny_run
import torch
from safetensors.torch import load_file
from tiny_presets import CASCADES, LOOPS, STACKS, STAGED, Data, of_each_kind, shrunk

from foleybook.core.files import CheckpointError
from foleybook.train.recipes import LoopRecipe
from foleybook.train import checkpoints
from foleybook.train.checkpoints import Checkpoint, read_checkpoint
from foleybook.training import TrainingError, laid_out_as

EVERYTHING = dict(ema=0.9, clip_norm=1.0, accumulate=3, checkpoint_steps=5, game=True, precision="bf16")
ENV = dict(os.environ, PYTHONPATH=os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]))


def rows(folder):
    with open(folder / "history.csv", newline="") as f:
        return [{k: v for k, v in r.items() if k != "seconds"} for r in csv.DictReader(f)]


def assert_same_run(a, b):
    assert rows(a) == rows(b)
    old, new = load_file(a / "model.safetensors"), load_file(b / "model.safetensors")
    assert all(torch.equal(old[k], new[k]) for k in old)


def train(folder, **changes):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        tiny_run.recipe(**changes).train(None, folder, progress=False)
    return [str(t.message) for t in told]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "unbroken"
    train(folder, **EVERYTHING)
    return folder


def test_killed_in_mid_epoch_then_resumed(unbroken, tmp_path):
    options = [f"{k}={v}" for k, v in EVERYTHING.items()]
    command = [sys.executable, str(Path(tiny_run.__file__)), str(tmp_path / "run"), *options, "die=14"]
    done = subprocess.run(command, env=ENV, timeout=120)
    assert done.returncode == -9 and not (tmp_path / "run" / "model.safetensors").exists()
    assert [p.name for p in sorted((tmp_path / "run" / "checkpoints").iterdir())] == ["step_00000008", "step_00000010"]
    train(tmp_path / "run", **EVERYTHING)
    assert_same_run(unbroken, tmp_path / "run")


class Stop(Exception):
    "Stands for a kill where a process of its own would be slow"


def interrupted(folder, step, **changes):
    def stop(self):
        if self.training and self.train_iter == step:
            raise Stop("stopped")

    with pytest.MonkeyPatch.context() as m, pytest.raises(Stop):
        m.setattr(tiny_run.Die, "after_batch", stop)
        tiny_run.recipe(**changes, die=step).train(None, folder, progress=False)


@pytest.mark.parametrize("changes", [
    dict(precision="fp16", optimizer="adam", schedule="exponential", lr_decay=0.9),
    dict(optimizer="sgd", schedule="warmup_cosine", checkpoint_steps=3, precision="fp16", game=True),
    dict(schedule="constant", workers=1, checkpoint_steps=7)])
def test_every_setting_resumes_exactly(tmp_path, changes):
    train(tmp_path / "a", **changes)
    interrupted(tmp_path / "b", 20, **changes)
    train(tmp_path / "b", **changes)
    assert_same_run(tmp_path / "a", tmp_path / "b")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return Data(tmp_path_factory.mktemp("data"))


def train_preset(name, data, out, stop=0, **changes):
    "Train a tiny version of a preset; `stop`: pull the plug after so many steps (in a cascade: of the last stage with steps)"
    recipe, save = shrunk(name, **changes), Checkpoint.after_batch
    stage = next((s for s in ("prior", "codebook", "backbone") if isinstance(getattr(recipe, s, None), LoopRecipe)), out.name)
    stage = ("tier2" if name == "texture" else "tier1") if name in STACKS else stage  # noise below has no weights

    def after_batch(self):
        save(self)
        if stop and self.learn.training and self.learn.train_iter == stop and self.folder.parent.name == stage:
            raise Stop("stopped")

    with pytest.MonkeyPatch.context() as m, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        m.setattr(Checkpoint, "after_batch", after_batch)
        return recipe.train(data.of(recipe), out, progress=False)


def assert_same_folders(a, b):
    "Histories, models and whole checkpoints of two runs are equal, bit by bit"
    for file in [*a.rglob("history.csv"), *a.rglob("*.safetensors")]:
        other = b / file.relative_to(a)
        if file.suffix == ".csv": assert rows(file.parent) == rows(other.parent), file
        elif "step_00000004" in str(file) or "checkpoints" not in str(file):
            old, new = load_file(file), load_file(other)
            assert old.keys() == new.keys() and not [k for k in old if not torch.equal(old[k], new[k])], file


@pytest.mark.parametrize("name", of_each_kind(LOOPS + CASCADES + STACKS + STAGED))
def test_a_preset_of_each_kind_resumes_exactly(name, data, tmp_path):
    a, b = tmp_path / "a" / name, tmp_path / "b" / name
    train_preset(name, data, a)
    with pytest.raises(Stop):
        train_preset(name, data, b, stop=3)
    train_preset(name, data, b)
    assert len([*a.rglob("history.csv")]) >= 1
    assert_same_folders(a, b)


@pytest.mark.parametrize("name", ["hifigan-v2", "melgan"])
def test_gradients_that_wait_are_laid_out_as_their_weights(name, data, tmp_path):
    changes = dict(accumulate=4, ema=0.9, steps=8, epoch_steps=8, checkpoint_steps=3)
    a, b = tmp_path / "a" / name, tmp_path / "b" / name
    train_preset(name, data, a, **changes)
    with pytest.raises(Stop):
        train_preset(name, data, b, stop=7, **changes)  # taken up at step 6, with two of four batches waiting
    train_preset(name, data, b, **changes)
    old, new = load_file(a / "model.safetensors"), load_file(b / "model.safetensors")
    assert rows(a) == rows(b) and all(torch.equal(old[k], new[k]) for k in old)


def test_laid_out_as():
    weight = torch.nn.Parameter(torch.zeros(5, 7, 3).permute(0, 2, 1))
    x = torch.randn(5, 3, 7)
    assert laid_out_as(weight, x).stride() == weight.stride() != x.stride() and torch.equal(laid_out_as(weight, x), x)
    assert laid_out_as(weight, x.double()).dtype == torch.float64


@pytest.mark.parametrize("file", ["model.safetensors", "state.safetensors", "state.json"])
def test_a_checkpoint_cut_in_half_falls_back(unbroken, tmp_path, file):
    interrupted(tmp_path / "run", 19, **EVERYTHING)
    newest = sorted((tmp_path / "run" / "checkpoints").glob("step_*"))[-1]
    data = (newest / file).read_bytes()
    (newest / file).write_bytes(data[:len(data) // 2])
    told = train(tmp_path / "run", **EVERYTHING)
    assert any(f"{newest.name}/{file}" in t and "falling back" in t for t in told)
    assert_same_run(unbroken, tmp_path / "run")
    assert list((tmp_path / "run" / "checkpoints").glob("*.damaged"))


def test_a_full_disk_loses_nothing(tmp_path):
    train(tmp_path / "a")
    write, told = tiny_run.write_checkpoint, []

    def full_at_16(folder, *args, **notes):
        if notes["step"] < 16: return write(folder, *args, **notes)
        with tiny_run.full_disk(500): return write(folder, *args, **notes)

    with pytest.MonkeyPatch.context() as m:
        m.setattr(checkpoints, "write_checkpoint", full_at_16)
        told = train(tmp_path / "b")
    assert any("Free some space" in t and "newest checkpoint is step_00000008" in t for t in told)
    assert [p.name for p in (tmp_path / "b" / "checkpoints").iterdir()] == ["step_00000008"]
    read_checkpoint(tmp_path / "b" / "checkpoints" / "step_00000008")
    assert_same_run(tmp_path / "a", tmp_path / "b")     # the run itself went on
    train(tmp_path / "b")                               # and can be taken up from what there is
    assert_same_run(tmp_path / "a", tmp_path / "b")


def test_the_newest_and_the_best_are_kept(tmp_path):
    train(tmp_path / "run", steps=48, keep=1, lr=0.05, schedule="constant")
    found = sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir())
    valid = {int(r["step"]): float(r["valid_loss"]) for r in rows(tmp_path / "run") if r["valid_loss"]}
    assert found == sorted({f"step_{48:08d}", f"step_{min(valid, key=valid.get):08d}"})


def test_other_settings_or_data_are_refused(tmp_path):
    train(tmp_path / "run")
    with pytest.raises(CheckpointError, match="other settings"):
        train(tmp_path / "run", lr=0.5)
    train(tmp_path / "run", keep=1, log_every=5)
    tiny = tiny_run.recipe()
    with pytest.MonkeyPatch.context() as m, pytest.raises(CheckpointError, match="same data"):
        m.setattr(tiny_run.Pairs, "__len__", lambda self: 40)
        tiny.train(None, tmp_path / "run", progress=False)


def test_a_fresh_start_sets_the_old_run_aside(tmp_path):
    train(tmp_path / "run")
    old = rows(tmp_path / "run")
    tiny_run.recipe(lr=0.5).train(None, tmp_path / "run", resume=False, progress=False)
    assert rows(tmp_path / "run" / "earlier_1") == old != rows(tmp_path / "run")
    assert (tmp_path / "run" / "earlier_1" / "checkpoints" / "step_00000024").exists()


def test_a_finished_run_stays_as_it_is(unbroken, tmp_path):
    before = rows(unbroken)
    train(unbroken, **EVERYTHING)
    assert rows(unbroken) == before


def test_losses_that_are_not_finite_stop_with_advice(tmp_path):
    with pytest.raises(TrainingError, match="Lower lr"):
        tiny_run.recipe(steps=120, epoch_steps=60, explode=True).train(None, tmp_path / "run", progress=False)

"Precision chosen by trial: recorded, resumed, and as good as float32"
import csv

import pytest
import torch

from foleybook.audio_features import MelConfig
from foleybook.codebooks import VQVAEConfig
from foleybook.train.codebooks import VQVAERecipe
from foleybook.core.feature_cache import MelCache
from foleybook.sound_data import make_procedural
from foleybook.train.checkpoints import read_checkpoint
from foleybook.train.precision import AutoPrecision
from foleybook.train import precision as by_trial
import foleybook.training as training

SMALL = dict(mel=MelConfig.preset("dcase2023"), freq_strides=(4, 2), time_strides=(4, 2), kernels=(4,), width=16, res_blocks=1, dim=8, n_codes=32)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    top = tmp_path_factory.mktemp("precision")
    table = make_procedural(top / "sounds", ["rain", "keyboard"], n=12, seconds=0.8, n_jobs=1)
    return MelCache.build(table, MelConfig.preset("dcase2023"), 0.8, top / "cache", n_jobs=1, progress=False)


def recipe(**changes):
    return VQVAERecipe(model=VQVAEConfig(**SMALL), steps=60, epoch_steps=20, batch_size=8, lr=2e-3, frames=64, log_every=1).override(changes)


def fastest(way):
    "A trial that finds `way` the fastest"
    return lambda model, step, ways, *_: {w: 1.0 if w == way else 2.0 for w in ways}


def losses(out):
    with open(out / "history.csv") as f:
        return [float(r["loss"]) for r in csv.DictReader(f) if r["loss"]]


def test_loss_curves_agree(cache, tmp_path, monkeypatch):
    "The average of the last third of the losses, bf16 with channels last against float32"
    plain = recipe().train(cache, tmp_path / "a", progress=False)
    monkeypatch.setattr(by_trial, "precision_seconds", fastest(("bf16", True)))
    auto = recipe(precision="auto").train(cache, tmp_path / "b", progress=False)
    assert (plain.card["precision"], auto.card["precision"]) == ("float32", "bf16")
    a, b = (torch.tensor(losses(tmp_path / k)[40:]).mean() for k in "ab")
    assert abs(a - b) < 0.05 * a and losses(tmp_path / "a")[40:] != losses(tmp_path / "b")[40:]


def test_it_says_no(cache, tmp_path, monkeypatch):
    "Where float32 is as fast, the run is the float32 run, to the last bit"
    monkeypatch.setattr(by_trial, "precision_seconds", fastest(("float32", False)))
    plain, auto = recipe(steps=20), recipe(steps=20, precision="auto")
    a, b = (r.train(cache, tmp_path / str(k), progress=False).state_dict() for k, r in enumerate((plain, auto)))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_a_resumed_run_keeps_the_choice(cache, tmp_path, monkeypatch):
    "Also where a new trial would say otherwise; weights equal those of the unbroken run"
    monkeypatch.setattr(by_trial, "precision_seconds", fastest(("bf16", True)))
    auto = recipe(steps=20, epoch_steps=10, checkpoint_steps=5, precision="auto")
    unbroken = auto.train(cache, tmp_path / "a", progress=False)

    class Plug(training.Callback):
        def after_batch(self):
            if self.training and self.train_iter == 13: raise KeyboardInterrupt

    with monkeypatch.context() as m:
        m.setattr(VQVAERecipe, "callbacks", lambda self: [Plug()])
        with pytest.raises(KeyboardInterrupt):
            auto.train(cache, tmp_path / "b", progress=False)
    newest = sorted((tmp_path / "b" / "checkpoints").glob("step_*"))[-1]
    assert read_checkpoint(newest)[1]["callbacks"]["auto_precision"]["precision"] == "bf16"
    monkeypatch.setattr(by_trial, "precision_seconds", fastest(("float32", False)))
    resumed = auto.train(cache, tmp_path / "b", progress=False)
    assert all(torch.equal(v, resumed.state_dict()[k]) for k, v in unbroken.state_dict().items())


def test_a_real_trial_leaves_model_and_chance_alone(cache):
    learn = recipe(precision="auto").learner(cache)
    learn.create_opt()
    before = {k: v.clone() for k, v in learn.model.state_dict().items()}
    auto = next(cb for cb in learn.cbs if isinstance(cb, AutoPrecision))
    learn.dls.train.epoch = 0
    batch = learn.dls.one_batch()
    learn.xb, learn.yb, auto.kind = batch[:1], batch[1:], "cpu"
    learn.model.train()
    state = torch.get_rng_state()
    auto.choose()
    assert set(auto.seconds) == {("float32", False), ("bf16", False), ("bf16", True)} and all(s > 0 for s in auto.seconds.values())
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(v, before[k]) for k, v in learn.model.state_dict().items())


@pytest.mark.filterwarnings("error")
def test_no_part_of_a_model_is_hidden(cache):
    "A learner passes on the names of its model, and fastai warns where a callback takes one of them"
    learn = recipe(precision="auto").learner(cache)
    learn.model.last = torch.nn.Linear(1, 1)
    learn.create_opt()
    next(cb for cb in learn.cbs if isinstance(cb, AutoPrecision)).use("float32", False)

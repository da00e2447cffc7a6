"""Recipes, overrides, model folders and the sampling contract: what a user can get wrong, and what must hold."""
import json
import math
import tempfile
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import tiny_run
import torch
from fastai.callback.core import Callback
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode

from foleybook.audio_features import MelConfig
from foleybook.core.sounds import Sounds
from foleybook.core.feature_cache import MelCache
from foleybook.train.loaders import mel_dls
from foleybook.sound_data import make_procedural
from foleybook.core.sounds import SamplingError
from foleybook.core.files import CheckpointError, atomic_folder
from foleybook.core.generator import Generator
from foleybook.core.randomness import ItemNoise
from foleybook.train.recipes import LoopRecipe, find_recipe, learner
from foleybook.core.settings import SettingsError, from_plain, parse_overrides, to_plain
from foleybook import training
from foleybook.train import checkpoints
from foleybook.train import distributed as processes
from foleybook.train.checkpoints import AudioLogger, History, pack_state, unpack_state
from foleybook.training import StepDL, TrainingError


@dataclass
class Part:
    width: int = 8
    rate: float = 0.5
    on: bool = True
    name: str = "x"
    sizes: tuple[int, ...] = (1, 2)
    limit: int | None = None
    mel: MelConfig = field(default_factory=lambda: MelConfig.preset("dcase2023"))


@dataclass
class PartRecipe(LoopRecipe):
    part: Part = field(default_factory=Part)
    presets = {"part-recipe": dict(steps=10)}


values = st.fixed_dictionaries(dict(
    width=st.integers(-10**9, 10**9), rate=st.floats(allow_nan=False, allow_infinity=False), on=st.booleans(),
    name=st.text(max_size=12), sizes=st.lists(st.integers(-99, 99), max_size=5).map(tuple),
    limit=st.none() | st.integers(0, 99)))


@settings(max_examples=80, deadline=None)
@given(values)
def test_what_is_typed_is_what_is_set(v):
    text = {f"part.{k}": ",".join(map(str, x)) if isinstance(x, tuple) else str(x) for k, x in v.items()}
    for changes in (text, {f"part.{k}": x for k, x in v.items()}):
        got = PartRecipe().override(changes).part
        assert {k: getattr(got, k) for k in v} == v
    again = PartRecipe.from_dict(json.loads(json.dumps(PartRecipe().override(text).to_dict())))
    assert again.part == got and again.hash == PartRecipe().override(text).hash


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=20), st.text(max_size=20))
def test_any_override_is_taken_or_refused_with_a_recipe_error(name, value):
    for key in (name, f"part.{name}", "part.width", "lr", "part.sizes", "part.mel"):
        try:
            PartRecipe().override({key: value})
        except SettingsError as e:
            assert str(e)


@pytest.mark.parametrize("changes,said", [
    ({"part.widht": 3}, "part.width"), ({"stepz": 3}, "steps"), ({"lr.x": 3}, "no fields"), ({"steps": "many"}, "many"),
    ({"steps": 0}, "steps=0"), ({"precision": "fp8"}, "fp16"), ({"part.width": 1.5}, "whole"),
    ({"part.mel": "hifigann"}, "hifigan"), ({"betas": "1,2,3"}, "Give 2"), ({"schedule": "cosine"}, "warmup_cosine")])
def test_refusals_say_what_is_meant(changes, said):
    with pytest.raises(SettingsError, match=said):
        PartRecipe().override(changes)


def test_presets_overrides_and_hash():
    r = find_recipe("part-recipe").override(parse_overrides(["part.mel=hifigan", "part.mel.n_fft=2048", "steps=7"]))
    assert (r.part.mel.n_fft, r.steps) == (2048, 7) and r.part.mel.hop_length == MelConfig.preset("hifigan").hop_length
    assert find_recipe("part-recipe").steps == 10
    assert r.hash == r.override(device="cpu").hash != r.override(lr=1).hash
    with pytest.raises(SettingsError, match="part-recipe"):
        find_recipe("part-recip")
    with pytest.raises(SettingsError, match="NAME=VALUE"):
        parse_overrides(["steps"])
    assert LoopRecipe(steps=150, epoch_steps=100).plan == (2, 75)


@settings(max_examples=50, deadline=None)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
                    lambda s: st.lists(s, max_size=3) | st.lists(s, max_size=3).map(tuple)
                    | st.dictionaries(st.text(max_size=4) | st.integers(), s, max_size=3), max_leaves=12))
def test_states_come_back(state):
    tensors, plain = pack_state({"s": state, "t": torch.arange(3)})
    back = unpack_state(tensors, json.loads(json.dumps(plain)))
    assert back["s"] == state and torch.equal(back["t"], torch.arange(3))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    torch.manual_seed(0)
    model = tiny_run.Tiny(tiny_run.TinyConfig()).eval()
    folder = tmp_path_factory.mktemp("models") / "tiny"
    model.save_pretrained(folder, dict(licence="CC0-1.0", data="noise", metrics={"valid_loss": 0.25}))
    return model, folder


def test_sampling_contract(tiny):
    model, _ = tiny
    eight = model.sample(n=8, seed=40, seconds=0.1)
    assert isinstance(eight, Sounds) and eight.audio.shape == (8, 1, 800) and eight.seeds == list(range(40, 48))
    alone = model.sample(n=1, seed=43, seconds=0.1)
    assert alone.labels == eight.labels[3:4]
    torch.testing.assert_close(alone.audio[0], eight.audio[3])
    drawn = model.sample(n=8, generator=torch.Generator().manual_seed(40), seconds=0.1)
    assert torch.equal(model.sample(n=8, seed=drawn.seeds, seconds=0.1).audio, drawn.audio)
    state = torch.get_rng_state()
    free = model.sample("hiss", seconds=0.1)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(model.sample("hiss", seconds=0.1, seed=free.seeds[0]).audio, free.audio)
    assert model.sample(["hiss", 1], seed=0).labels == ["hiss", "rumble"]
    assert model.train().sample(0).audio.shape[-1] == 4000 and model.training
    model.eval()


@pytest.mark.parametrize("args", [
    dict(cond="his"), dict(cond=2), dict(cond=-1), dict(cond=True), dict(cond=[0, 1], n=3), dict(cond=[]), dict(n=0),
    dict(n=1.5), dict(seconds=0), dict(seconds=math.nan), dict(seconds="1"), dict(steps=3), dict(num_inference_steps=3),
    dict(guidance=2), dict(guidance_scale=2.0), dict(temperature=0), dict(temperature=math.inf), dict(top_k=3),
    dict(top_p=0.5), dict(seed=-1), dict(seed=1.5), dict(seed=[1, 2]), dict(init=torch.zeros(8)), dict(strength=0.5),
    dict(mask=torch.ones(8)), dict(loop=True), dict(seed=1, generator=torch.Generator())])
def test_bad_arguments_are_refused(tiny, args):
    with pytest.raises(ValueError):
        tiny[0].sample(**args)


def test_unknown_argument_is_a_type_error(tiny):
    with pytest.raises(TypeError, match="temperature"):
        tiny[0].sample(temprature=1.0)


def test_nothing_but_sound_comes_out():
    class Broken(tiny_run.Tiny):
        what = staticmethod(lambda n: torch.full((n, 1, 4000), math.nan))

        def _sample(self, cond, n, seeds, seconds, temperature):
            return self.what(n)

    model = Broken(tiny_run.TinyConfig())
    for what in (lambda n: torch.full((n, 1, 4000), math.nan), lambda n: torch.zeros(n, 1, 4000),
                 lambda n: torch.ones(n, 4000), lambda n: torch.ones(n + 1, 1, 4000)):
        Broken.what = staticmethod(what)
        with pytest.raises(SamplingError):
            model.sample("hiss")
    Broken.what = staticmethod(lambda n: torch.ones(n, 1, 400))
    with pytest.raises(SamplingError, match="4000 were asked"):
        model.sample("hiss", seconds=0.5)
    Broken.what = staticmethod(lambda n: 3 * torch.rand(n, 1, 4000))
    assert model.sample("hiss").audio.abs().max() <= 1


def test_model_folder(tiny, tmp_path):
    model, folder = tiny
    again = Generator.from_pretrained(folder)
    assert type(again) is tiny_run.Tiny and again.config_hash == model.config_hash and not again.training
    assert torch.equal(again.sample(0, seed=1).audio, model.sample(0, seed=1).audio)
    assert again.sample(0, seed=1).meta["licence"] == "CC0-1.0"
    card = (folder / "README.md").read_text()
    assert "license: cc0-1.0" in card and "| valid_loss | 0.25 |" in card

    broken = tmp_path / "broken"
    for name, spoil, said in (
            ("model.safetensors", lambda b: b[:len(b) // 2], "damaged or cut"), ("config.json", lambda b: b[:20], "damaged or cut"),
            ("config.json", lambda b: b.replace(b"dropout", b"drobout"), "dropout"),
            ("config.json", lambda b: b.replace(b'"Tiny"', b'"Tony"'), "no model known"),
            ("config.json", lambda b: b.replace(b'"tiny_run"', b'"os.path"'), "no model known")):
        model.save_pretrained(broken)
        (broken / name).write_bytes(spoil((broken / name).read_bytes()))
        with pytest.raises(CheckpointError, match=said) as e:
            Generator.from_pretrained(broken)
        assert name in str(e.value)
    model.save_pretrained(broken)
    state = load_file(broken / "model.safetensors")
    state["surplus"] = state.pop("net.0.bias")
    save_file(state, broken / "model.safetensors")
    with pytest.raises(CheckpointError, match="missing: net.0.bias; surplus: surplus"):
        Generator.from_pretrained(broken)
    with pytest.raises(CheckpointError, match="no such folder"):
        Generator.from_pretrained(tmp_path / "nowhere")


def test_a_model_survives_a_full_disk(tiny, tmp_path):
    model, folder = tiny
    model.save_pretrained(tmp_path / "m")
    with pytest.raises(CheckpointError, match="untouched"), tiny_run.full_disk(100):
        model.save_pretrained(tmp_path / "m")
    assert torch.equal(Generator.from_pretrained(tmp_path / "m").net[0].weight, model.net[0].weight)
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_atomic_folder_replaces_or_leaves(tmp_path):
    for text in ("one", "two"):
        with atomic_folder(tmp_path / "a") as work:
            (work / "x").write_text(text)
    with pytest.raises(KeyboardInterrupt):
        with atomic_folder(tmp_path / "a") as work:
            (work / "x").write_text("three")
            raise KeyboardInterrupt
    assert (tmp_path / "a" / "x").read_text() == "two" and [p.name for p in tmp_path.iterdir()] == ["a"]


def test_cached_clips_are_cropped_anew_in_each_pass(tmp_path):
    table = make_procedural(tmp_path / "s", ["rain"], n=4, seconds=1.0, n_jobs=1)
    cache = MelCache.build(table, MelConfig.preset("dcase2023"), 1.0, tmp_path / "c", n_jobs=1, progress=False)
    dls = mel_dls(cache, bs=1, frames=20, device="cpu")
    steps = StepDL(dls.train, 8 * len(dls.train.dataset), seed=1)
    batches = [x.as_subclass(torch.Tensor) for x, y in steps]
    assert len({tuple(b.flatten()[:9].tolist()) for b in batches}) > 2 * len(dls.train.dataset)
    steps.start = 5
    assert all(torch.equal(a, b.as_subclass(torch.Tensor)) for a, (b, y) in zip(batches[5:], steps))


class Questions(TorchDispatchMode):
    "Counts how often a number is asked of the device"
    asked = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.asked += func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.is_nonzero.default)
        return func(*args, **(kwargs or {}))


def stepped(ask, explode=(), patience=50, **changes):
    "Learner of the tiny recipe after one epoch, and the questions of its training steps"
    recipe = tiny_run.recipe(game=True, clip_norm=1.0, ema=0.9, **changes)
    learn, counted = recipe.learner(None), Questions()

    class CountQuestions(Callback):
        name, order, open = "questions", 1000, None

        def after_batch(self):
            if self.open: self.open = counted.__exit__(None, None, None)

    class Begin(Callback):
        order = -1000

        def before_batch(self):
            if self.training: self.learn.questions.open = counted.__enter__()

    class Explode(Callback):
        order = 7
        def after_loss(self):
            if self.training and self.train_iter in explode: self.learn.loss_grad = self.loss_grad * float("inf")

    learn.add_cbs([Begin(), CountQuestions(), Explode(), History(Path(tempfile.mkdtemp()), 100)])
    learn.mixed_precision.patience = patience
    learn.mixed_precision.ask = learn.adversarial_training.ask = ask
    with learn.no_bar(), learn.no_logging():
        try: learn.fit(2, 0.01)
        finally: learn.questions.after_batch()
    return learn, counted.asked


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
def test_a_step_asks_the_device_nothing(optimizer, precision):
    learn, asked = stepped(False, optimizer=optimizer, precision=precision)
    other, often = stepped(True, optimizer=optimizer, precision=precision)
    assert asked == 0 and often >= 2 * 16
    assert all(torch.equal(a, b) for a, b in zip(learn.model.state_dict().values(), other.model.state_dict().values()))


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_steps_that_are_not_finite_are_skipped_without_a_question(optimizer):
    learn, asked = stepped(False, {3, 4, 9}, optimizer=optimizer)
    other, _ = stepped(True, {3, 4, 9}, optimizer=optimizer)
    assert asked == 0 and int(learn.mixed_precision.skipped) == other.mixed_precision.skipped == 3
    for a, b in ((learn.model.state_dict(), other.model.state_dict()), (learn.ema.average, other.ema.average)):
        assert all(torch.equal(a[k], b[k]) and a[k].isfinite().all() for k in b)
    with pytest.raises(TrainingError, match="Lower lr"):
        stepped(False, range(99), patience=4, optimizer=optimizer)


def test_ema_is_its_formula_and_buffers_are_copied():
    recipe = tiny_run.recipe(ema=0.5, **{"model.dropout": 0})
    learn, seen = recipe.learner(None), []

    class See(Callback):
        order = 21
        def after_step(self): seen.append({k: v.clone() for k, v in self.model.state_dict().items()})

    learn.add_cb(See())
    start = {k: v.clone() for k, v in learn.model.state_dict().items()}
    with learn.no_bar(), learn.no_logging():
        learn.fit(1, 0.01)
    average = dict(start)
    for n, state in enumerate(seen):
        decay = min(0.5, (1 + n) / (10 + n))
        average = {k: average[k].lerp(v, 1 - decay) if k in dict(learn.model.named_parameters()) else v for k, v in state.items()}
    assert all(torch.equal(learn.ema.average[k], v) for k, v in average.items()) and len(seen) == 8


def test_workers_change_nothing():
    batches = []
    for workers in (0, 2):
        dls = tiny_run.recipe(workers=workers).dataloaders(None)
        batches.append([torch.cat(b, -1) for b in StepDL(dls.train, 6, seed=2)])
    assert all(torch.equal(a, b) for a, b in zip(*batches))


def test_item_noise_follows_the_weights():
    drawn = torch.stack([ItemNoise([s]).choice(torch.tensor([[1.0, 3.0]]))[0] for s in range(400)])
    assert abs(drawn.float().mean() - 0.75) < 0.07


def test_audio_logger_writes_for_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    learn = learner(tiny_run.recipe(), None)
    learn.add_cb(AudioLogger(tmp_path, every=8))
    tiny_run.recipe().fit(learn)
    assert len(list(tmp_path.glob("step_*/*.wav"))) == 12 and list((tmp_path / "tensorboard").iterdir())


def test_a_silent_model_does_not_stop_training(tmp_path):
    learn = learner(tiny_run.recipe(), None)

    def silent(model):
        raise SamplingError("all silent")

    learn.add_cb(AudioLogger(tmp_path, every=8, sampler=silent))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        tiny_run.recipe().fit(learn)
    assert any("nothing to hear yet" in str(t.message) for t in told)


def test_plain_values_round_trip():
    assert from_plain(Part, to_plain(Part(sizes=(3,)))) == Part(sizes=(3,))
    assert from_plain(dict, '{"a": 1}') == {"a": 1} and from_plain(float, np.float32(0.5)) == 0.5


def test_lines_without_a_terminal(tmp_path, capfd):
    tiny_run.recipe().train(None, tmp_path / "run")
    lines = capfd.readouterr().out.splitlines()
    assert len(lines) == 4 and lines[0].startswith("epoch 1/3  step 8  train_loss") and "peak" in lines[0]
    assert "█" not in "".join(lines) and "saved" in lines[-1]


def test_inside_a_long_epoch_a_line_says_how_long_it_will_take(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(checkpoints.StepLines.__init__, "__defaults__", (0.0,))
    tiny_run.recipe().train(None, tmp_path / "run")
    lines = [line for line in capfd.readouterr().out.splitlines() if line.startswith("step ")]
    assert len(lines) == 23 and lines[-1].startswith("step 24/24  loss 0.") and lines[-1].endswith("about 0 s left")
    tiny_run.recipe().train(None, tmp_path / "quiet", progress=False)
    assert not capfd.readouterr().out


@pytest.mark.parametrize("words", ["[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:4242",
                                   "Exception occured in `History`:\n\n[gloo/pair.cc] Read error", "NCCL communicator was aborted"])
def test_a_survivor_says_that_another_process_ended(words, monkeypatch):
    class Quiet(training.Callback): pass

    monkeypatch.setattr(processes, "num_distrib", lambda: 2)
    monkeypatch.setattr(processes, "Distributed", lambda **_: Quiet())
    learn = tiny_run.recipe().learner(None)
    with pytest.raises(training.TrainingError, match="process 0 of 2: another process of this run has ended.*same command"):
        with processes.distributed(learn, cpu=True): raise RuntimeError(words)
    with pytest.raises(RuntimeError, match="a plain fault"):
        with processes.distributed(learn, cpu=True): raise RuntimeError("a plain fault")

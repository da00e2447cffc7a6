"""Recipes: what is refused, stored, found and heard, and what the card says."""
import json
import subprocess
import sys
import warnings
import dataclasses
from dataclasses import dataclass, field

import pandas as pd
import pytest
import soundfile as sf
import tiny_run
import torch
from tiny_presets import AT_ONCE, CASCADES, LOOPS, SHIPPED, STACKS, Data, of_each_kind, shrunk

from foleybook.apps import cli
from foleybook.train.codebooks import CascadeRecipe
from foleybook.core.code_maps import Cascade, PriorRecipe
from foleybook.core.code_tables import CodeTable
from foleybook.judge.mel_classifiers import ClassifierRecipe
from foleybook.core.generator import Pretrained, shipped_models
from foleybook.train.pixelsnail import FoleyRecipe, PixelSNAILRecipe
from foleybook.train.presets import GROUPS, PRESETS
from foleybook.train.recipes import (
    LoopRecipe, Recipe, StagedRecipe, all_recipes, find_recipe, licence_of, licence_of_parts)
from foleybook.core.settings import SettingsError
from foleybook.core.clip_tables import ClipTable
from foleybook.core.feature_cache import MelCache
from foleybook.training import StepDL
from foleybook.vocoders import ISTFTVocoder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return Data(tmp_path_factory.mktemp("data"))


# ---- what is refused ----


@pytest.mark.parametrize("name", AT_ONCE + CASCADES)
def test_a_recipe_without_a_loop_has_no_learning_rate(name):
    recipe = find_recipe(name)
    assert not isinstance(recipe, LoopRecipe)
    for field_ in ("lr", "steps", "batch_size", "epoch_steps"):
        with pytest.raises(SettingsError, match="codebook.lr" if name in CASCADES and field_ == "lr" else field_):
            recipe.override({field_: 1})
    assert recipe.override(seed=3, device="cpu").seed == 3


@pytest.mark.parametrize("preset,changes,said", [
    ("quick-vqvae", dict(lr_decay=0.5), "schedule=exponential"), ("quick-vqvae", dict(warmup=0.2), "warmup_cosine"),
    ("quick-vqvae", dict(betas=(0.5, 0.99)), "one_cycle moves"), ("quick-vqvae", dict(vocoder="default"), "audio_every"),
    ("hifigan-v2", dict(warmup=0.2), "warmup_cosine"), ("hifigan-v2", dict(optimizer="sgd", betas=(0.8, 0.9)), "second"),
    ("melgan", dict(d_width=0.5), "one size"), ("quick-pixelsnail", dict(codebook="runs/x"), "audio_every"),
    ("quick-vocoder", dict(lr_decay=0.9), "schedule=exponential"),
    ("foley-cascade-own-vocoder", dict(vocoder="default", vocoder_data="x"), "finished one"),
    ("foley-cascade-own-vocoder", {"vocoder": "default", "vocoder_recipe.steps": 3}, "finished one"),
    ("quick-cascade", {"codebook.lr_decay": 0.5}, "codebook: lr_decay"), ("quick-cascade", {"prior.steps": 0}, "prior: steps=0"),
    ("unigram", dict(device="gpu"), "device"), ("unigram", dict(seed=-1), "seed")])
def test_what_would_be_ignored_is_refused(preset, changes, said):
    with pytest.raises(SettingsError, match=said):
        find_recipe(preset).override(changes)


@pytest.mark.parametrize("preset,changes", [
    ("hifigan-v2", dict(lr_decay=0.99)), ("hifigan-v2", dict(schedule="one_cycle")), ("quick-vocoder", dict(warmup=0.2)),
    ("quick-vqvae", dict(schedule="exponential", lr_decay=0.9)), ("quick-vqvae", dict(vocoder="default", audio_every=5)),
    ("quick-vqvae", dict(lr_decay=0.999)), ("quick-vocoder", dict(schedule="one_cycle")), ("foley-cascade-own-vocoder", dict(vocoder="default"))])
def test_what_is_used_or_was_there_before_is_not_refused(preset, changes):
    again = find_recipe(preset).override(changes)
    assert again.override().hash == Recipe.from_dict(again.to_dict()).hash == again.hash


@pytest.mark.parametrize("name", [n for n, cls in SHIPPED.items() if issubclass(cls, StagedRecipe)])
def test_seed_and_device_of_a_stage_are_refused(name):
    recipe = find_recipe(name)
    for stage in recipe.stages:
        with pytest.raises(SettingsError, match="Set seed of the whole|finished one"):
            recipe.override({f"{stage}.seed": 3})
        with pytest.raises(SettingsError, match="Set device of the whole|finished one"):
            recipe.override({f"{stage}.device": "cpu"})
        assert recipe.stage(stage).seed == 0 and recipe.override(seed=5).stage(stage).seed == 5
    alike = {f"{s}.seed": 3 for s in recipe.stages if s not in recipe.unused()}
    assert recipe.override(alike | {"seed": 3}).seed == 3


@pytest.mark.parametrize("preset,field_,value,remedy", [
    ("quick-cascade", "prior.codebook", "x", "codebook of this run"), ("quick-cascade", "prior.vocoder", "x", "vocoder of the whole"),
    ("foley", "vae.seconds", 2, "backbone.seconds"), ("quick-diffusion", "backbone.cache_dir", "x", "vae.cache_dir"),
    ("foley", "backbone.vae", "x", "autoencoder of this run"), ("quick-vqgan", "classifier.seed", 3, "Set seed"),
    ("quick-vqgan", "classifier.seconds", 1, "Set seconds"), ("quick-vqgan-cascade", "codebook.classifier.device", "cpu", "Set device")])
def test_what_the_whole_decides_is_refused_with_the_field_to_set(preset, field_, value, remedy):
    with pytest.raises(SettingsError, match=rf"{field_.removeprefix('codebook.')}=.* would not be used.*{remedy}"):
        find_recipe(preset).override({field_: value})


def test_the_steps_of_sampling_are_not_those_of_training():
    with pytest.raises(SettingsError, match="vae.steps or backbone.steps"):
        find_recipe("quick-diffusion").override(steps=50)
    recipe = find_recipe("quick-diffusion").override(sample_steps=7)
    stored = recipe.to_dict()
    stored["settings"]["steps"] = stored["settings"].pop("sample_steps")  # as it was written earlier
    assert Recipe.from_dict(stored) == recipe


@pytest.mark.parametrize("preset,changes", [
    ("quick-vqvae", dict(lr="inf")), ("quick-vqvae", dict(lr=float("nan"))), ("quick-vqvae", dict(clip_norm="inf")),
    ("quick-vqvae", {"model.decay": "inf"}), ("quick-cascade", dict(guidance="nan")), ("quick-cascade", {"codebook.lr": "inf"}),
    ("quick-diffusion", {"backbone.task.drop": "nan"}), ("quick-rnn", {"lower.track_rate": "inf"})])
def test_numbers_are_finite(preset, changes):
    with pytest.raises(SettingsError, match="finite"):
        find_recipe(preset).override(changes)


def test_a_preset_that_sets_a_field_may_change_its_schedule():
    @dataclass
    class Fading(LoopRecipe):
        presets = {"fading": dict(schedule="exponential", lr_decay=0.5)}

    recipe = find_recipe("fading").override(schedule="constant")  # lr_decay is no longer used, but nobody asked for it now
    assert recipe.lr_decay == 0.5
    with pytest.raises(SettingsError, match="lr_decay=0.25"):
        recipe.override(lr_decay=0.25)


def test_a_recipe_made_by_hand_is_checked_when_it_trains(tmp_path):
    with pytest.raises(SettingsError, match="lr_decay"):
        tiny_run.TinyRecipe(lr_decay=0.5).train(None, tmp_path)


# ---- the table ----


def test_the_table_is_read_without_torch_and_without_a_family():
    code = "import sys, foleybook.train.presets; print([m for m in sys.modules if m.split('.')[0] in ('torch', 'fastai', 'numpy')], " \
           "sorted(m for m in sys.modules if m.startswith('foleybook.')))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.strip() == "[] ['foleybook.train', 'foleybook.train.presets']"


def test_the_table_holds_every_preset_of_the_book_as_plain_values():
    assert {n: f"{c.__module__}.{c.__qualname__}".removeprefix("foleybook.") for n, c in SHIPPED.items()} \
        == {n: p.recipe for n, p in PRESETS.items()}
    json.dumps([p.fields for p in PRESETS.values()])  # text, numbers, lists and dicts only
    assert all(0 < len(p.about) <= 70 and p.group in GROUPS for p in PRESETS.values())
    assert [n for n, p in PRESETS.items() if p.group == GROUPS[0]][0] == "quick-cascade"


@pytest.mark.parametrize("name", PRESETS)
def test_a_line_of_the_table_is_what_find_recipe_gives(name):
    recipe = find_recipe(name)
    assert recipe.name == name and recipe.hash == recipe.baseline.hash == Recipe.from_dict(recipe.to_dict()).hash
    assert not recipe.unused() or recipe.override() is not None
    for stage in (v for v in PRESETS[name].fields.values() if isinstance(v, str) and v in PRESETS):
        assert stage in [part.name for part in vars(recipe).values() if isinstance(part, Recipe)]


@pytest.mark.parametrize("name", ["foley", "foley-cascade"])
def test_a_model_that_ships_is_trained_by_the_recipe_of_its_name(name):
    made = find_recipe(name)._train.__annotations__["return"]
    assert json.loads((shipped_models()[name] / "pipeline.json").read_text())["model"] == made


# ---- names ----


def test_two_recipes_of_one_name_are_an_error_that_names_both():
    @dataclass
    class One(Recipe):
        presets = {"a-name-twice": {}}

    @dataclass
    class Other(Recipe):
        presets = {"a-name-twice": {}}

    try:
        for ask in (lambda: find_recipe("a-name-twice"), all_recipes, lambda: Recipe.preset("a-name-twice")):
            with pytest.raises(SettingsError, match=r"One.*Other|Other.*One"):
                ask()
        assert find_recipe("quick-vqvae").name == "quick-vqvae" and One.preset("a-name-twice").name == "a-name-twice"
    finally:
        One.presets, Other.presets = {}, {}
    assert "a-name-twice" not in all_recipes()


def test_a_preset_of_another_kind_is_refused():
    with pytest.raises(SettingsError, match="UnigramRecipe, not a LoopRecipe"):
        CascadeRecipe().override(codebook="unigram")
    with pytest.raises(SettingsError, match="quick-vqvae"):
        LoopRecipe.preset("quick-vqave")


# ---- stored ----


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_preset_survives_a_file(name):
    recipe = find_recipe(name)
    text = json.dumps(recipe.to_dict())
    again = Recipe.from_dict(json.loads(text))
    assert type(again) is type(recipe) and again == recipe and again.hash == recipe.hash and again.name == name
    assert json.dumps(again.to_dict()) == text


def test_changed_stages_survive_a_file():
    recipe = find_recipe("quick-cascade").override({"prior.steps": 7, "prior.model.channels": 32, "codebook": "dcase-vqvae"})
    again = Recipe.from_dict(json.loads(json.dumps(recipe.to_dict())))
    assert type(again.prior) is PixelSNAILRecipe and again.prior.model.channels == 32 and again == recipe
    assert again.codebook.name == "dcase-vqvae" and again.prior.name == "quick-pixelsnail"
    assert again.hash == recipe.hash != find_recipe("quick-cascade").hash
    assert recipe.hash == recipe.override({"prior.log_every": 3, "device": "cpu"}).hash != recipe.override({"prior.lr": 1}).hash
    assert find_recipe("unigram-cascade").override(prior="demo-pixelsnail").hash != find_recipe("unigram-cascade").hash


@pytest.mark.parametrize("name", ["unigram-cascade", "demo-cascade", "foley-cascade-own-vocoder", "shaped-noise", "quick-pops", "quick-vocoder"])
def test_every_run_writes_its_recipe(name, data, tmp_path):
    recipe = find_recipe(name) if name in AT_ONCE else shrunk(name)
    recipe.train(data.clips() if name in AT_ONCE else data.of(recipe), tmp_path / "run", progress=False)
    files = [*(tmp_path / "run").rglob("recipe.json")]
    stages = (dict(codebook=1, prior=1, first_vocoder=1) if name == "foley-cascade-own-vocoder" else dict(codebook=1, prior=1) if name in CASCADES
              else dict(tier1=1, tier2=1) if name in STACKS else {})
    assert {f.parent.name for f in files} == {"run", *stages}
    assert Recipe.from_dict(json.loads((tmp_path / "run" / "recipe.json").read_text())) == recipe


# ---- heard ----


HEARD = [n for n in LOOPS if not issubclass(SHIPPED[n], (ClassifierRecipe, PriorRecipe)) and not getattr(find_recipe(n), "made", ())]


SILENT = ("ljspeech", "sashimi", "sashimi_small", "sc09", "sc09-small")


def heard(folder):
    return [sf.read(f)[0] for f in folder.rglob("*.wav")]


@pytest.mark.parametrize("name", of_each_kind(HEARD))
def test_a_preset_of_each_kind_can_be_heard(name, data, tmp_path):
    recipe = shrunk(name, steps=2, epoch_steps=2, audio_every=1)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        recipe.train(data.of(recipe), tmp_path / "run", progress=False)
    if name in SILENT:  # they begin with an output layer of zeros
        assert any("nothing to hear yet" in str(w.message) for w in told)
        return
    assert [p.name for p in sorted((tmp_path / "run" / "samples").glob("step_*"))] == ["step_00000001", "step_00000002"]
    sounds = heard(tmp_path / "run" / "samples" / "step_00000002")
    assert 1 <= len(sounds) <= 4 and all(abs(x).max() > 0 and len(x) > 1000 for x in sounds)


@pytest.mark.parametrize("name", [n for n in LOOPS if n not in HEARD and "melception" not in n])
def test_what_cannot_be_heard_is_refused_before_training(name, data, tmp_path):
    recipe = shrunk(name, audio_every=1)
    with pytest.raises(SettingsError, match="audio_every=1"):
        recipe.train(data.of(recipe), tmp_path / "run", progress=False)
    assert not (tmp_path / "run" / "history.csv").exists() and not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize("prior", [n for n in LOOPS if issubclass(SHIPPED[n], PriorRecipe)
                                   and getattr(find_recipe(n).model, "condition", "") != "features"])
def test_a_prior_is_heard_through_its_codebook(prior, data, tmp_path):
    recipe = shrunk("quick-cascade")
    tiny = shrunk(prior, audio_every=1, steps=2, epoch_steps=2)
    recipe = recipe.override({"codebook.steps": 2, "codebook.audio_every": 2}).override(prior=tiny)
    cascade = recipe.train(data.clips(), tmp_path / "run", progress=False)
    assert len(heard(tmp_path / "run" / "prior" / "samples")) == 8 and len(heard(tmp_path / "run" / "codebook" / "samples")) >= 1
    learn = tiny.override(codebook=str(tmp_path / "run" / "codebook")).learner(tmp_path / "run" / "codes")
    assert tiny.override(codebook=str(tmp_path / "run" / "codebook")).listen(learn).audio.shape[0] == 4
    assert isinstance(cascade, Cascade)


def test_listening_changes_nothing(data, tmp_path):
    a = shrunk("hifigan-v2").train(data.of(shrunk("hifigan-v2")), tmp_path / "a", progress=False)
    b = shrunk("hifigan-v2", audio_every=1).train(data.of(shrunk("hifigan-v2")), tmp_path / "b", progress=False)
    assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values()))


# ---- cards ----


def table(licences):
    return ClipTable(pd.DataFrame(dict(path=[f"{i}.wav" for i in range(len(licences))], label="rain", licence=licences)), ".")


@pytest.mark.parametrize("licences,said", [
    (["CC0"] * 3, "CC0"), (["CC0", "CC-BY", "CC0"], "CC-BY, CC0"), (["", None, float("nan")], "unknown"),
    (["CC0"] * 12 + [""] * 8 + [None] * 4, "CC0, unknown for 12 of 24 clips")])
def test_unknown_licences_stay_unknown(licences, said):
    assert licence_of(table(licences)) == said == find_recipe("unigram").card(table(licences))["licence"]


def test_a_cascade_names_the_licence_of_every_part(data, tmp_path):
    vocoder = ISTFTVocoder(shrunk("quick-vocoder").model)
    vocoder.save_pretrained(tmp_path / "vocoder", dict(licence="CC-BY-NC-4.0"))
    clips = data.clips()
    half = ClipTable(clips.df.assign(licence=["CC0"] * 4 + [""] * 4), clips.root)
    recipe = shrunk("unigram-cascade").override(vocoder=str(tmp_path / "vocoder"))
    recipe.train(half, tmp_path / "run", progress=False)
    told = "CC0, unknown for 4 of 8 clips"
    said = f"codebook: {told}; prior: {told}; vocoder: CC-BY-NC-4.0"
    assert Cascade.from_pretrained(tmp_path / "run").card["licence"] == said
    assert said in (tmp_path / "run" / "README.md").read_text()
    assert Pretrained.from_pretrained(tmp_path / "run" / "prior").card["licence"] == told
    assert licence_of_parts(dict(a="CC0", b="CC0", c=None)) == "CC0"


def test_a_path_as_data_tells_its_licences(data, tmp_path):
    clips = data.clips()
    path = ClipTable(clips.df.assign(licence="CC0"), clips.root).save(tmp_path / "clips.csv")
    shrunk("quick-vqvae", cache_dir=str(tmp_path)).train(str(path), tmp_path / "run", progress=False)
    assert Pretrained.from_pretrained(tmp_path / "run").card["licence"] == "CC0"


# ---- rows and workers ----


def test_the_fold_asked_for_is_held_out_where_clips_were_skipped(data, tmp_path):
    clips = data.clips()
    for k, f in enumerate(clips.files()): (tmp_path / f"{k}.wav").write_bytes(f.read_bytes())
    (tmp_path / "1.wav").write_bytes(b"no sound")
    df = pd.DataFrame(dict(path=[f"{k}.wav" for k in range(8)], label=list(clips.df.label), fold=[1, 5, 2, 3, 5, 1, 4, 5]))
    options = dict(folder=tmp_path / "cache", n_jobs=1, progress=False)
    recipe = shrunk("quick-classifier", valid_fold=5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cache = MelCache.build(ClipTable(df, tmp_path), recipe.model.mel, 0.5, **options)
    assert len(cache) == 7
    dls = recipe.dataloaders(cache)
    assert {f.rpartition("/")[2] for f in cache.index.df.path.iloc[dls.valid_rows]} == {"4.wav", "7.wav"}
    assert set(cache.index.df.fold.iloc[dls.train_rows]) == {1, 2, 3, 4}


@pytest.mark.parametrize("name", ["quick-vqvae", "quick-melvae", "quick-diffwave", "quick-vocoder", "quick-classifier", "class-sounds",
                                  "quick-mel-images", "unigram", "shaped-noise"])
def test_no_recipe_learns_from_the_test_split(name, data, tmp_path):
    "Folds and a test split in one table: rows 0 to 3 are loud, what was learned or measured knows nothing of them"
    clips = data.clips()
    df = clips.df.assign(split=["Test", *[""] * 3] * 2, fold=[1, 2, 3, 4] * 2)
    table, recipe = ClipTable(df, clips.root), shrunk(name) if name in LOOPS else find_recipe(name)
    if name == "unigram":
        codes = CodeTable(data.codes().codes[:8], df.assign(split=["Test", *[""] * 3] * 2), 8, "")
        assert codes.train_idx == [1, 2, 3, 5, 6, 7]
        return
    if name == "shaped-noise":
        made = recipe.train(table, tmp_path / "a"), recipe.train(table.subset([1, 2, 3, 5, 6, 7]), tmp_path / "b")
        torch.testing.assert_close(made[0].spectrum, made[1].spectrum, rtol=0, atol=0)
        return
    dls = recipe.dataloaders(table)
    assert sorted([*dls.train_rows, *dls.valid_rows]) == [1, 2, 3, 5, 6, 7]


def tensors(batch):
    "Of a batch, those inside conditions too"
    return [t for part in batch for t in (part.tensors().values() if hasattr(part, "tensors") else [part])]


@pytest.mark.parametrize("name", ["quick-vqvae", "quick-vocoder", "pops", "quick-pixelsnail", "quick-classifier"])
def test_workers_are_used_and_change_nothing(name, data):
    batches = []
    for workers in (0, 1):
        learn = shrunk(name, workers=workers).learner(data.of(shrunk(name)))
        assert isinstance(learn.dls.train, StepDL) and learn.dls.train.fake_l.num_workers == workers
        batches.append([torch.cat([t.as_subclass(torch.Tensor).flatten().float() for t in tensors(b)]) for b in learn.dls.train])
    assert len(batches[0]) == 4 and all(torch.equal(a, b) for a, b in zip(*batches))


# ---- what it costs ----


def test_the_list_costs_no_import_and_no_second():
    code = ("import sys, time; from foleybook.apps.cli import main; main(['train', '--list']); "
            "print(time.process_time(), [m for m in sys.modules if m in ('torch', 'fastai', 'numpy')])")
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    seconds, heavy = told[-1].split(" ", 1)
    assert float(seconds) <= 1 and heavy == "[]" and told[0] == "start here:" and told[1].split()[0] == "quick-cascade"
    assert [line.split()[0] for line in told if line[:2] == "  "] == [n for g in GROUPS for n, p in PRESETS.items() if p.group == g]


@pytest.mark.parametrize("name,line", [
    ("foley-cascade", "codebook: 2,000 x 16 sounds, 0.31 million weights"), ("sc09", "training: 1,000,000 x 4 sounds, 24 million weights"),
    ("hifigan-v1", "14 million weights"), ("foley", "vae: 1,500 x 16 sounds\n  backbone: 6,400 x 16 sounds"), ("pops", "1.6 million weights")])
def test_a_recipe_tells_its_cost_when_asked(name, line):
    assert line in cli._recipe_cost(name)



def test_a_training_begins_where_another_model_ended(tmp_path):
    "`start`: rows follow the names of their classes, what is new is silent, the codec is kept, the content counts"
    import shutil

    from foleybook.core.generator import Pretrained, shipped_models
    from foleybook.train.warm_start import start_of, warm_start

    old = start_of("foley")
    labels = ["anvil", *reversed(old.labels)]
    config = dataclasses.replace(old.backbone.config, n_classes=len(labels))
    new = type(old.backbone)(config)
    told = warm_start(new, old, labels)
    assert len(told) == 1 and told[0].startswith("new kinds: anvil")
    x = torch.randn(2, config.channels, config.rows, 20)
    t, ours = torch.tensor([500., 20.]), [labels.index("rain"), len(labels)]
    theirs = [old.labels.index("rain"), len(old.labels)]
    from foleybook.core.generator import Conditions
    with torch.no_grad():
        a = new.eval()(x, t, Conditions(label=torch.tensor([ours[0], -1])), hints=torch.ones(2, 4))
        b = old.backbone.eval()(x, t, Conditions(label=torch.tensor([theirs[0], -1])), hints=torch.ones(2, 4))
    assert torch.equal(a, b)
    blind = type(old.backbone)(dataclasses.replace(config, hints=0, level=0))
    assert not warm_start(new, blind, labels) and not new.hints.weight.any() and not new.level.weight.any()

    recipe = find_recipe("foley").override(start="foley")
    with pytest.raises(SettingsError, match="vae.*autoencoder is that of"):
        recipe.override({"vae.steps": 7})
    with pytest.raises(SettingsError, match="Set start of the whole"):
        find_recipe("foley").override({"backbone.start": "foley"})
    with pytest.raises(SettingsError, match="would not be used"):
        find_recipe("unigram").override(start="foley")
    copy = shutil.copytree(shipped_models()["foley"], tmp_path / "copy")
    assert recipe.hash == recipe.override(start=str(copy)).hash != find_recipe("foley").hash
    with pytest.raises(SettingsError, match="no_such"):
        start_of(tmp_path / "no_such")
    assert isinstance(recipe.started("vae", tmp_path / "vae", print), type(old.vae))
    assert Pretrained.from_pretrained(tmp_path / "vae").latents_hash == old.vae.latents_hash

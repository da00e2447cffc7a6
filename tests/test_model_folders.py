"""How models are named, opened and written: names of the book, hashes, hostile folders, and what must go along with a model."""
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import tiny_run
import torch

import foleybook as fb
from foleybook.train import recipes
from foleybook.audio_features import MelConfig
from foleybook.codebooks import VQVAE, VQVAEConfig
from foleybook.core.code_maps import Cascade, PriorConfig, UnigramPrior
from foleybook.judge.leaderboard import _check_folder
from foleybook.core.files import CheckpointError, held_folder
from foleybook.core.generator import Generator, Pretrained, model_folder, shipped_models
from foleybook.core.settings import SettingsError, config_hash
from foleybook.core.rendering import find_vocoder
from foleybook.vocoders import ISTFTConfig, ISTFTVocoder

MEL = MelConfig.preset("dcase2023")
SMALL = VQVAEConfig(mel=MEL, freq_strides=(4, 2), time_strides=(4, 2), kernels=(4,), width=8, res_width=4, res_blocks=1, dim=4, n_codes=16)


@pytest.fixture
def tiny(tmp_path):
    return tiny_run.Tiny(tiny_run.TinyConfig()).save_pretrained(tmp_path / "tiny")


@pytest.fixture
def cascade(tmp_path):
    torch.manual_seed(0)
    book = VQVAE(SMALL)
    prior = UnigramPrior(PriorConfig((10, 4), 16, 2, book.codebook_hash))
    made = Cascade(prior, book, ISTFTVocoder(ISTFTConfig(MEL, 8, 16, 1)), ["rain", "pops"])
    card = dict(licence="CC BY 4.0", data="twelve clips: authors.csv names each", metrics=dict(recognised=0.5), steps=7)
    folder = made.save_pretrained(tmp_path / "cascade", card)
    (folder / "authors.csv").write_text("clip,author\n1.wav,Ann\n")
    (folder / "history.csv").write_text("step,loss\n")
    (folder / "NOTICE").write_text("by Ann")
    return folder


def changed(folder, name="config.json", stamp=True, **entries):
    "Another folder's worth of settings, as a stranger could write them"
    about = json.loads((folder / name).read_text()) | entries
    if stamp: about["config_hash"] = config_hash([about["model"], about["config"]])
    (folder / name).write_text(json.dumps(about))
    return folder


# ---- names ----


def test_a_folder_called_like_a_shipped_model_does_not_shadow_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in shipped_models(): Path(name).mkdir()
    assert {name: model_folder(name) for name in shipped_models()} == shipped_models()
    assert find_vocoder("vocoder").mel == find_vocoder().mel
    _check_folder("mine", "foley")
    with pytest.raises(CheckpointError, match="config.json: not found"): fb.load("./foley")
    tiny_run.Tiny(tiny_run.TinyConfig()).save_pretrained("pops")
    with pytest.warns(UserWarning, match="write ./pops"): assert type(fb.load("pops")).__name__ == "TierStack"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for path in ("./pops", tmp_path / "pops", str(tmp_path / "pops"), Path("pops")): assert type(fb.load(path)).__name__ == "Tiny"


def test_a_part_of_a_shipped_model_has_a_name():
    assert type(fb.load("foley-cascade/codebook")).__name__ == "VQVAE"
    with pytest.raises(CheckpointError, match="no such folder"): fb.load("foley-cascade/../vocoder")


@pytest.mark.parametrize("name", [None, 3, ["foley"], "", " ", "a\0b", "x" * 5000, "hf://../../x", "hf://", "hf://a", "hf://a/..", b"foley", "~nobody/x"])
def test_names_that_are_none(name):
    with pytest.raises(CheckpointError, match="no name of|no such folder"): fb.load(name)


def test_an_address_of_a_vocoder_keeps_its_slashes(monkeypatch):
    asked = []

    def nothing(name, **_):
        asked.append(name)
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", nothing)
    with pytest.raises(CheckpointError, match="hf://a/b: the hub gave nothing"): find_vocoder("hf://a/b")
    assert asked == ["a/b"]


def test_what_is_no_vocoder_is_refused_before_sampling(cascade):
    with pytest.raises(CheckpointError, match="holds a VQVAE, which turns no spectrogram into sound"): find_vocoder(cascade / "codebook")
    with pytest.raises(CheckpointError, match="holds a VQVAE"): fb.load(cascade, vocoder=cascade / "codebook")


def test_a_recipe_is_found_in_a_fresh_process():
    code = "from foleybook.train.recipes import find_recipe\nfind_recipe('quick-vqvae')\ntry: find_recipe('quick-vqvea')\nexcept Exception as e: print(e)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200)
    assert "Did you mean quick-vqvae" in done.stdout, done.stderr[-500:]


# ---- what goes along ----


def test_files_that_the_card_speaks_of_go_along(cascade, tmp_path):
    again = fb.load(cascade).save_pretrained(tmp_path / "b")
    for name in ("authors.csv", "NOTICE"): assert (again / name).read_text() == (cascade / name).read_text()
    assert not (again / "history.csv").exists()
    assert (fb.load("vocoder").save_pretrained(tmp_path / "v") / "clips.csv").read_bytes() == (shipped_models()["vocoder"] / "clips.csv").read_bytes()
    part = fb.load("foley-cascade").prior.save_pretrained(tmp_path / "p")  # its table lies beside the whole
    assert (part / "clips.csv").exists() and fb.load(part).beside.keys() == {"clips.csv"}


def test_what_is_pushed_to_the_hub_holds_them_too(cascade, monkeypatch):
    seen = []
    model = fb.load(cascade)
    for name in ("create_repo", "upload_folder", "preupload_lfs_files"):
        monkeypatch.setattr(f"huggingface_hub.hub_mixin.HfApi.{name}", lambda self, *a, folder_path=None, **kw: (
            seen.extend(p.name for p in Path(folder_path).iterdir()) if folder_path else None) or type("R", (), dict(repo_id="a/b"))(), raising=False)
    model.push_to_hub("a/b")
    assert {"pipeline.json", "authors.csv", "NOTICE"} <= set(seen)


def test_a_link_to_somewhere_else_does_not_go_along(cascade, tmp_path):
    (tmp_path / "secret").write_text("key")
    (cascade / "LICENSE").symlink_to(tmp_path / "secret")
    assert sorted(fb.load(cascade).beside) == ["NOTICE", "authors.csv"]


def test_another_vocoder_keeps_the_card(cascade, tmp_path):
    voice = ISTFTVocoder(ISTFTConfig(MEL, 8, 16, 1)).save_pretrained(tmp_path / "v", dict(licence="CC0-1.0"))
    model = fb.load(cascade, vocoder=voice)
    old = fb.load(cascade).card
    assert {k: model.card[k] for k in ("data", "metrics", "steps")} == {k: old[k] for k in ("data", "metrics", "steps")}
    assert model.licence == "CC BY 4.0; vocoder: CC0-1.0" and "authors.csv" in model.beside
    assert "vocoder" in model.card["exchanged"] and fb.load(cascade).licence == "CC BY 4.0"
    assert model.with_vocoder(voice).licence == model.licence
    again = fb.load(model.save_pretrained(tmp_path / "again"))
    assert again.licence == model.licence and again.sample(0, seed=1).meta["licence"] == model.licence


def test_a_prior_and_a_codebook_keep_the_card(cascade, tmp_path):
    prior = Pretrained.from_pretrained(cascade / "prior")
    prior.save_pretrained(tmp_path / "p", dict(licence="CC BY 4.0", data="codes", steps=3, labels=["rain", "pops"]))
    model = fb.load(tmp_path / "p", codebook=cascade / "codebook")
    assert (model.licence, model.card["data"], model.card["steps"]) == ("CC BY 4.0; codebook: unknown", "codes", 3)


# ---- what a folder says of itself ----


def test_exchanged_labels_are_noticed(cascade):
    about = json.loads((cascade / "pipeline.json").read_text())
    changed(cascade, "pipeline.json", stamp=False, config=about["config"] | dict(labels=["pops", "rain"]))
    with pytest.raises(CheckpointError, match="pipeline.json: config_hash is not that of its entries"): fb.load(cascade)
    changed(cascade, "pipeline.json", config=about["config"] | dict(labels=["rain", "rain"]))
    with pytest.raises(CheckpointError, match="two classes are called 'rain'"): fb.load(cascade)


def test_every_setting_is_in_the_hash(tiny):
    config = json.loads((tiny / "config.json").read_text())["config"]
    for name, value in dict(sample_rate=16000, gains=[0.5, 1.0], dropout=0.3).items():
        with pytest.raises(CheckpointError, match="changed by hand"): fb.load(changed(tiny, stamp=False, config=config | {name: value}))
    with pytest.raises(CheckpointError, match="changed by hand"): fb.load(changed(tiny, stamp=False, config=config, config_hash="0" * 12))
    assert fb.load(changed(tiny, config=config))


@pytest.mark.parametrize("form", [99, 0, "2", None, True, -1])
def test_another_format_is_refused(tiny, form):
    with pytest.raises(CheckpointError, match="Update foleybook"): fb.load(changed(tiny, format=form))


def test_a_newer_foleybook_is_said(tiny):
    with pytest.warns(UserWarning, match="newer than this one"): fb.load(changed(tiny, foleybook="99.0"))


@pytest.mark.parametrize("entries", [dict(module="foleybook..os"), dict(module="foleybook.../../x"), dict(module="foleybook.nowhere"),
                                     dict(module="foleybook.__main__"), dict(module=3), dict(module="os"), dict(model=[]), dict(model="Generators")])
def test_a_foreign_class_is_named(tiny, entries):
    with pytest.raises(CheckpointError, match="config.json: .* is no model known here"): fb.load(changed(tiny, **entries))


@pytest.mark.parametrize("card", [None, [], 3, dict(metrics=[])])
def test_a_card_that_is_none(tiny, card):
    with pytest.raises(CheckpointError, match="config.json: the entry 'card'"): fb.load(changed(tiny, card=card))


@pytest.mark.parametrize("parts", [{}, [], None, 3, {"../cascade/prior": "x"}, {"prior": 3}, {"vocoder": None, "x": 1}])
def test_parts_that_are_none(cascade, parts):
    with pytest.raises(CheckpointError, match="pipeline.json"): fb.load(changed(cascade, "pipeline.json", parts=parts))


@pytest.mark.parametrize("name, value", [("width", 2**40), ("n_codes", 10**300), ("res_blocks", 10**7), ("n_codes", 2**22), ("width", 2**20), ("dim", -1),
                                         ("freq_strides", [0, 2]), ("time_strides", [0, 0]), ("kernels", [2**21]), ("n_quantizers", 10**6)])
def test_settings_far_larger_than_the_weights(cascade, name, value):
    config = json.loads((cascade / "codebook/config.json").read_text())["config"]
    changed(cascade / "codebook", config=config | {name: value})
    with pytest.raises(CheckpointError, match="codebook/(config.json: .*Copy the folder again|model.safetensors: does not fit)"): fb.load(cascade / "codebook")


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "loop"])
def test_weights_that_are_no_file(cascade, kind):
    weights = cascade / "prior/model.safetensors"
    weights.unlink()
    if kind == "pipe": os.mkfifo(weights)
    elif kind == "folder": weights.mkdir()
    else: weights.symlink_to("/dev/zero" if kind == "device" else weights.name)
    for folder in (cascade, cascade / "prior"):
        with pytest.raises(CheckpointError, match="prior/model.safetensors"): fb.load(folder)


def test_text_is_utf8_whatever_the_locale(tmp_path):
    code = ("import sys; sys.path.insert(0, 'tests')\nimport tiny_run, foleybook as fb\nfrom pathlib import Path\n"
            f"f = tiny_run.Tiny(tiny_run.TinyConfig()).save_pretrained(Path({str(tmp_path)!r}), dict(data='\\xe9t\\xe9 \\u96e8'))\nprint(len(fb.load(f).card['data']))")
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent.parent, capture_output=True, text=True, timeout=200,
                          env=os.environ | dict(LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0"))
    assert done.stdout.split() == ["5"], done.stderr[-500:]
    assert "été 雨" in (tmp_path / "README.md").read_text(encoding="utf-8")


# ---- others' files, others' recipes ----


def test_only_dead_drafts_of_ours_go(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    here, kept = tmp_path / "rain", []
    gone = [here / f".a.wav.{dead.pid}.tmp", tmp_path / f".rain.{dead.pid}.tmp", tmp_path / f".rain.old.{dead.pid}.tmp"]
    for name in (".editor.tmp", ".work.tmp", f".a.{os.getpid()}.tmp", ".a.0x1.tmp"): kept.append(here / name)
    for name in (f".rain.v2.{os.getpid()}.tmp", f".rain.v2.{dead.pid}.tmp", ".rain.backup.tmp", f".rain.{os.getppid()}.tmp"): kept.append(tmp_path / name)
    for path in gone + kept:
        path.mkdir(parents=True)
        (path / "novel.txt").write_text("mine")
    with held_folder(here): pass
    assert not [p for p in gone if p.exists()] and not [p for p in kept if not (p / "novel.txt").exists()]


@pytest.mark.parametrize("value", [None, [], {}, 3, "x", dict(settings=None), dict(settings=[]), dict(settings={}, module="foleybook.../../x", recipe="x"),
                                   dict(settings={}, module="foleybook.codebooks", recipe=["VQVAERecipe"]),
                                   dict(settings=dict(lr=None), module="foleybook.codebooks", recipe="VQVAERecipe"),
                                   dict(settings={}, module="foleybook.codebooks", recipe="VQVAE")])
def test_a_recipe_of_a_stranger(value):
    with pytest.raises(SettingsError): recipes.Recipe.from_dict(value)


@pytest.mark.parametrize("changes", [dict(lr=float("inf")), dict(lr="nan"), dict(weight_decay="inf"), dict(clip_norm=float("nan")), dict(lr="1e400")])
def test_numbers_of_a_run_are_finite(changes):
    with pytest.raises(SettingsError, match="finite number|not allowed"): recipes.find_recipe("quick-vqvae").override(changes)
    field, value = next(iter(changes.items()))
    run = recipes.find_recipe("quick-vqvae")
    setattr(run, field, float(value))
    with pytest.raises(SettingsError, match=field): run.check()


def test_every_shipped_model_opens():
    for name in shipped_models():
        model = fb.load(name)
        assert model.licence != "unknown" and (not isinstance(model, Generator) or model.card)


def test_foley_fast_is_foley_in_four_calls(capsys, tmp_path):
    "A student kept as low-rank differences opens as a generator wherever a model may be named"

    base, fast = fb.load("foley"), fb.load("foley-fast")
    assert fast.labels == base.labels and (fast.config.steps, fast.config.guidance) == (4, 1) and base.config.steps == 20
    calls = []
    fast.backbone.register_forward_hook(lambda *_: calls.append(1))
    made = fast.sample("rain", seconds=1, seed=3, progress=False)
    assert len(calls) == 4 and "licence" in made.meta
    again = Generator.from_pretrained("foley-fast").sample("rain", seconds=1, seed=3, progress=False)
    assert torch.equal(made.audio, again.audio)
    with pytest.raises(CheckpointError, match="LowRank"):
        type(base.vae).from_pretrained("foley-fast")
    size = sum(f.stat().st_size for f in (shipped_models()["foley-fast"]).rglob("*"))
    assert size < 2e6

"""What broke when the book was used as a demanding and as a hostile user would: each fault with the test that keeps it mended.

Further tests of the same list stand where the rooms are tested: names of classes, layouts and headers in test_sound_data and
test_audio_features, labels in caches and damaged caches in test_cache_faults, weights and folders in test_golden and test_codebooks.
"""
import errno
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import tiny_run
import torch

import foleybook
from foleybook import evaluation
from foleybook.judge import leaderboard as boards
from foleybook.apps import cli
from foleybook.audio_features import MelConfig, MelMismatch
from foleybook.core.sounds import listed_sounds
from foleybook.core.sound_files import AudioError, read_audio, write_audio
from foleybook.apps.cli import main
from foleybook.codebooks import VQVAE, VQVAEConfig
from foleybook.train.codebooks import CascadeRecipe, VQVAERecipe
from foleybook.core.code_tables import CodeTable
from foleybook.core.data_sets import open_dataset
from foleybook.core.files import CheckpointError, held_folder
from foleybook.train.presets import GROUPS, PRESETS
from foleybook.train.recipes import Recipe, find_recipe
from foleybook.core.clip_tables import ClipTable
from foleybook.core.files import TableError
from foleybook.core.feature_cache import MelCache
from foleybook.vocoders import ISTFTConfig, ISTFTVocoder

MEL = MelConfig.preset("fullband")
SMALL = VQVAEConfig(freq_strides=(4, 2), time_strides=(4, 2), kernels=(4,), width=8, res_width=4, res_blocks=1, dim=4, n_codes=16)


def noise(file, seconds=0.5, rate=22050, seed=0, level=0.3):
    file.parent.mkdir(parents=True, exist_ok=True)
    sf.write(file, np.random.default_rng(seed).uniform(-level, level, round(seconds * rate)), rate)


def clips(folder, n=5):
    "Two classes of noise"
    for k, label in enumerate(["hiss", "rumble"]):
        for i in range(n): noise(folder / label / f"{i}.wav", seed=10 * k + i)
    return folder


def cache_of(table, folder):
    return MelCache.build(table, MEL, 0.5, folder, n_jobs=1, progress=False)


def cascade(**changes):
    run = dict(steps=2, epoch_steps=2, batch_size=2, precision="float32")
    book = VQVAERecipe(model=SMALL, seconds=0.5, frames=16, **run)
    return CascadeRecipe(codebook=book, device="cpu").override(changes)


# ---- wrong result without a word ----


def test_corrected_labels_train_anew(tmp_path, capsys):
    table = open_dataset(clips(tmp_path / "in"))
    cascade().train(cache_of(table, tmp_path / "c"), tmp_path / "run")
    capsys.readouterr()
    swapped = ClipTable(table.df.assign(label=table.df.label.map(dict(hiss="rumble", rumble="hiss"))), table.root)
    cascade().train(cache_of(swapped, tmp_path / "c"), tmp_path / "run")
    assert "finished before" not in capsys.readouterr().out
    assert (tmp_path / "run/codebook/earlier_1").is_dir()


def test_a_run_on_other_labels_is_refused_or_begun_anew(tmp_path):
    table = open_dataset(clips(tmp_path / "in"))
    recipe = cascade().codebook
    recipe.train(cache_of(table, tmp_path / "c"), tmp_path / "run", progress=False)
    swapped = cache_of(ClipTable(table.df.assign(label=list(table.df.label)[::-1]), table.root), tmp_path / "c")
    with pytest.raises(CheckpointError, match="other clips or labels.*--fresh"):
        recipe.train(swapped, tmp_path / "run", progress=False)
    recipe.train(swapped, tmp_path / "run", resume=False, progress=False)
    recipe.train(swapped, tmp_path / "run", progress=False)


def test_a_digest_knows_labels_parts_and_files(tmp_path):
    table = open_dataset(clips(tmp_path / "in"))
    first, df = table.digest, table.df
    for changed in [df.assign(label="x"), df.assign(start=0.1), df.assign(split="test")]:
        assert ClipTable(changed, table.root).digest != first
    assert ClipTable(df.assign(licence="CC0"), table.root).digest == first == open_dataset(tmp_path / "in").digest
    noise(table.file(0), 0.6)
    assert table.digest != first


def test_retraining_with_changed_settings_goes_on_after_a_kill(tmp_path, monkeypatch):
    data = cache_of(open_dataset(clips(tmp_path / "in")), tmp_path / "c")
    cascade().train(data, tmp_path / "run", progress=False)
    changed = cascade(**{"codebook.lr": 1e-4, "codebook.steps": 4})

    def cut(self, *args, **kwargs): raise KeyboardInterrupt

    with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
        m.setattr(VQVAERecipe, "finish", cut)
        changed.train(data, tmp_path / "run", progress=False)
    begun = {f.name: f.stat().st_mtime_ns for f in (tmp_path / "run/codebook/checkpoints").iterdir()}
    assert begun and len([*(tmp_path / "run/codebook").glob("earlier_*")]) == 1
    changed.train(data, tmp_path / "run", progress=False)
    again = {f.name: f.stat().st_mtime_ns for f in (tmp_path / "run/codebook/checkpoints").iterdir()}
    assert again == begun and len([*(tmp_path / "run/codebook").glob("earlier_*")]) == 1


def test_a_recipe_over_an_older_cascade_is_what_is_loaded(tmp_path):
    data = cache_of(open_dataset(clips(tmp_path / "in")), tmp_path / "c")
    cascade().train(data, tmp_path / "run", progress=False)
    tiny_run.recipe(steps=2, epoch_steps=2).train(None, tmp_path / "run", progress=False)
    assert type(foleybook.load(tmp_path / "run")).__name__ == "Tiny"


@pytest.fixture
def tiny(tmp_path):
    model = tiny_run.Tiny(tiny_run.TinyConfig()).eval()
    model.save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


def other(tiny):
    "The same family with other weights"
    torch.manual_seed(1)
    return tiny_run.Tiny(tiny_run.TinyConfig()).save_pretrained(tiny.with_name("other"))


def test_a_folder_mixed_from_two_models_is_noticed(tiny):
    (other(tiny) / "model.safetensors").rename(tiny / "model.safetensors")
    with pytest.raises(CheckpointError, match="model.safetensors: is not what config.json was written with"):
        foleybook.load(tiny)


@pytest.mark.parametrize("by_class", [[], ["--by-class"]])
def test_two_models_in_one_folder_stay_apart(tiny, tmp_path, capsys, by_class):
    out = tmp_path / "out"
    words = ["--out", str(out), "--per-class", "2", *by_class]
    assert main(["sample", str(tiny), *words]) == 0
    first = {f.relative_to(out): f.read_bytes() for f in out.rglob("*.wav")}
    assert main(["sample", str(other(tiny)), *words]) == 0
    assert f"is now in {tmp_path / 'out_earlier_1'}" in capsys.readouterr().out
    assert {f.relative_to(out): f.read_bytes() for f in out.rglob("*.wav")} != first
    assert len([*out.rglob("*.wav")]) == len(listed_sounds(out)) == 4
    aside = tmp_path / "out_earlier_1"
    assert {f.relative_to(aside): f.read_bytes() for f in aside.rglob("*.wav")} == first
    assert len(listed_sounds(aside)) == 4


def test_codes_name_their_clips(tmp_path, monkeypatch):
    monkeypatch.setenv("FOLEYBOOK_CACHE", str(tmp_path / "cache"))
    book = VQVAE(SMALL).eval()
    book.save_pretrained(tmp_path / "book")
    words = ["prepare", str(clips(tmp_path / "in")), "--codebook", str(tmp_path / "book"), "--seconds", "0.5", "--jobs", "1"]
    assert main([*words, "--out", str(tmp_path / "deep/wc"), "--quiet"]) == 0
    for table in (ClipTable.read(tmp_path / "deep/wc/clips.csv"), ClipTable(CodeTable.load(tmp_path / "deep/wc").df, tmp_path / "deep/wc")):
        assert len(table) == 10 and all(f.is_file() for f in table.files())


def test_what_a_folder_was_read_as_is_said_and_can_be_overruled(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("FOLEYBOOK_CACHE", str(tmp_path / "cache"))
    for name in ("DogBark", "GunShot", "MovingMotorVehicle", "Mine"): noise(tmp_path / "in" / name / "0.wav")
    words = ["prepare", str(tmp_path / "in"), "--seconds", "0.5", "--jobs", "1"]
    assert main([*words, "--out", str(tmp_path / "a")]) == 0
    told = capsys.readouterr()
    assert "read as DCASE 2023 Task 7" in told.out and "no Mine: left out" in told.err and "--plain" in told.err
    assert main([*words, "--out", str(tmp_path / "b"), "--plain"]) == 0
    assert "plain class folders" in (told := capsys.readouterr()).out and "4 classes" in told.out


# ---- one file or one number ends the run ----


def test_long_recordings_are_checked_and_used_in_bounded_memory(tmp_path):
    import resource

    file = tmp_path / "long.wav"
    with sf.SoundFile(file, "w", 44100, 2, subtype="PCM_16") as f:
        for k in range(30):
            f.write(np.zeros((44100 * 60, 2), "i2") if k != 28 else np.random.default_rng(0).uniform(-0.5, 0.5, (44100 * 60, 2)))
    table = ClipTable(dict(path=["long.wav"], label=["rain"]), tmp_path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert len(table.check(n_jobs=1)) == 1
    cache = cache_of(table, tmp_path / "c")
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10 < 400
    assert np.array(cache.mels[0]).mean() > -5  # the sound behind half an hour of silence


@pytest.mark.parametrize("seconds", ["0", "1e12", "nan", "inf", "-1", "0.00001"])
def test_lengths_that_are_none(tmp_path, capsys, seconds):
    assert main(["prepare", str(clips(tmp_path / "in", 1)), "--seconds", seconds, "--out", str(tmp_path / "out"), "--jobs", "1"]) == 1
    assert "is no length of clips" in capsys.readouterr().err


@pytest.mark.parametrize("column, value", [("seconds", "inf"), ("start", "-1"), ("seconds", "long")])
def test_odd_numbers_in_a_table_are_named(tmp_path, column, value):
    (tmp_path / "t.csv").write_text(f"path,label,{column}\na.wav,x,{value}\n")
    with pytest.raises(TableError, match=f"t.csv: column '{column}' holds"): open_dataset(tmp_path / "t.csv")


def test_no_part_of_a_sound(tmp_path):
    noise(tmp_path / "a.wav")
    for part in (dict(start=float("nan")), dict(seconds=float("inf"))):
        with pytest.raises(AudioError, match="is no part of a sound"): read_audio(tmp_path / "a.wav", **part)


def test_what_cannot_be_written_is_known_before_the_first_step(tmp_path, monkeypatch):
    steps = []
    monkeypatch.setattr(Recipe, "_train", lambda *a: steps.append(a), raising=False)
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file/run", Path("/proc/none/run")):
        with pytest.raises(CheckpointError, match="cannot be written.*--out"): Recipe().train(None, out)
    assert not steps


def test_a_vocoder_of_another_mel_is_known_before_the_first_step(tmp_path):
    data = cache_of(open_dataset(clips(tmp_path / "in", 2)), tmp_path / "c")
    ISTFTVocoder(ISTFTConfig(MEL.replace(n_mels=40), 8, 16, 1)).save_pretrained(tmp_path / "v")
    with pytest.raises(MelMismatch, match="n_mels"):
        cascade(vocoder=str(tmp_path / "v")).train(data, tmp_path / "run")
    assert not (tmp_path / "run/codebook").exists()


# ---- lost work, wrong place ----


def test_sampling_goes_on_where_it_was_killed(tiny, tmp_path, capsys, monkeypatch):
    words = ["sample", str(tiny), "--per-class", "6", "--batch", "2"]
    assert main([*words, "--out", str(tmp_path / "whole")]) == 0
    real, made = tiny_run.Tiny._sample, []

    def dies(self, cond, n, seeds, **how):
        made.extend(seeds)
        if len(made) > 6: raise KeyboardInterrupt
        return real(self, cond, n, seeds, **how)

    with monkeypatch.context() as m:
        m.setattr(tiny_run.Tiny, "_sample", dies)
        assert main([*words, "--out", str(tmp_path / "out")]) == 130
    assert len(listed_sounds(tmp_path / "out")) == 6
    with open(tmp_path / "out/metadata.jsonl", "a") as f:  # as a kill leaves it: listed, not written yet
        f.write(json.dumps(listed_sounds(tmp_path / "out")[0] | dict(file="rumble_0.wav", label="rumble", seed=0)) + "\n")
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    assert "6 of 12 sounds are there already" in capsys.readouterr().out
    files = {f.name: f.read_bytes() for f in (tmp_path / "out").glob("*.wav")}
    assert files == {f.name: f.read_bytes() for f in (tmp_path / "whole").glob("*.wav")} and len(files) == 12
    stamps = {f: f.stat().st_mtime_ns for f in (tmp_path / "out").glob("*.wav")}
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    assert stamps == {f: f.stat().st_mtime_ns for f in (tmp_path / "out").glob("*.wav")}


@pytest.mark.parametrize("by_class", [[], ["--by-class"]])
def test_files_that_sample_did_not_write_stay(tiny, tmp_path, by_class):
    out, words = tmp_path / "out", ["sample", str(tiny), *by_class, "--out", str(tmp_path / "out")]
    assert main([*words, "-n", "1"]) == 0
    mine = [out / "hiss_0_edited.wav", out / "hiss_1.wav", out / "hiss" / "recording.wav", out / "rumble" / "001.wav", out / "hiss_1.flac"]
    for f in mine:
        f.parent.mkdir(exist_ok=True)
        f.write_bytes(b"mine")
    assert main([*words, "-n", "3"]) == 0
    assert all(f.read_bytes() == b"mine" for f in mine)
    rows = listed_sounds(out)
    assert len(rows) == 6 and not {out / r["file"] for r in rows} & {*mine}


def test_a_model_without_classes_is_asked_for_none(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(tiny_run.Tiny, "labels", [])
    for words in (["sample", str(tiny)], ["edit", str(tiny), str(clips(tmp_path / "in") / "hiss/0.wav")]):
        assert main([*words, "--class", "hiss", "--out", str(tmp_path / "out.wav")]) == 1
        assert "--class hiss: " in (told := capsys.readouterr().err) and "knows no classes" in told
    assert not (tmp_path / "out.wav").exists()


def test_a_class_named_twice_is_made_once(tiny, tmp_path, capsys):
    assert main(["sample", str(tiny), "--class", "hiss", "hiss", "-n", "2", "--out", str(tmp_path / "out")]) == 0
    assert [r["file"] for r in listed_sounds(tmp_path / "out")] == ["hiss_0.wav", "hiss_1.wav"]


@pytest.mark.parametrize("words, said", [
    (["--class", "rain", "hiss"], "gets one sound"), (["-n", "2"], "--per-class"), (["--batch", "2"], "--batch"), (["--format", "wav"], "--format"),
    (["--bits", "16"], "--bits"), (["--sample-rate", "8000"], "--sample-rate"), (["--by-class"], "--by-class"), (["--loop"], "--loop"),
    (["--out", "{film}"], "is the input itself"), (["--out", "x.wav"], "dubbed.mp4"), (["--video", "no.mp4"], "no such film")])
def test_what_a_film_has_no_use_for_is_refused(tiny, tmp_path, capsys, words, said):
    (film := tmp_path / "film.mp4").write_bytes(b"film")
    words = [w.replace("{film}", str(film)) for w in words]
    assert main(["sample", str(tiny), "--video", str(film), "--out", str(tmp_path / "x.mp4"), *words]) == 1
    assert said in capsys.readouterr().err and film.read_bytes() == b"film"


def test_what_cannot_be_written_is_known_before_it_is_made(tiny, tmp_path, capsys):
    for words, said in ((["--format", "aac"], "wav or flac"), (["--bits", "8"], "16 or 24"), (["--sample-rate", "5"], "in Hz"), (["--eye", "x"], "--video")):
        assert main(["sample", str(tiny), "--out", str(tmp_path / "out"), *words]) == 1
        assert said in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_full_disk_while_sampling_is_called_so(tiny, tmp_path, capsys, monkeypatch):
    real = Path.write_bytes

    def full(self, data):
        if ".wav" in self.name and "_3" in self.name: raise OSError(errno.ENOSPC, "No space left on device", str(self))
        return real(self, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    assert main(["sample", str(tiny), "--per-class", "6", "--out", str(tmp_path / "out")]) == 1
    told = capsys.readouterr().err
    assert "The disk is full" in told and "System error" not in told
    listed = {r["file"] for r in listed_sounds(tmp_path / "out")}
    assert listed == {f.name for f in (tmp_path / "out").glob("*.wav")} and len(listed) == 3


def test_one_training_at_a_time_in_a_folder(tmp_path):
    with held_folder(tmp_path / "run"):
        with pytest.raises(CheckpointError, match="another process is at work"):
            tiny_run.recipe().train(None, tmp_path / "run", progress=False)
    tiny_run.recipe(steps=2, epoch_steps=2).train(None, tmp_path / "run", progress=False)
    assert not (tmp_path / "run/.lock").exists()


def test_one_leaderboard_at_a_time_in_a_folder(tmp_path):
    table = open_dataset(clips(tmp_path / "sounds"))
    with held_folder(tmp_path / "board"), pytest.raises(CheckpointError, match="another process is at work"):
        boards.leaderboard(table, table, tmp_path / "board", {}, embedder="log-mel", times=0, progress=False)
    assert not (tmp_path / "board/leaderboard.csv").exists()


def test_the_floor_leaves_out_what_cannot_be_read(tmp_path):
    folder = clips(tmp_path / "sounds")
    whole = find_recipe("shaped-noise").train(folder, tmp_path / "a")
    (folder / "hiss/torn.wav").write_bytes(b"RIFF")
    with pytest.warns(UserWarning, match="torn.wav"): torn = find_recipe("shaped-noise").train(folder, tmp_path / "b")
    assert torch.equal(whole.spectrum, torn.spectrum) and torch.equal(whole.curve, torn.curve)


# ---- words ----


@pytest.mark.parametrize("words, said", [
    (["--per-class", "0"], "--per-class 0 is not allowed. Give 1 or more"), (["--batch", "0"], "--batch 0 is not allowed"),
    (["--seconds", "0"], "seconds=0.0 is not allowed"), (["--seconds", "1e12"], "more than an hour"),
    (["--seconds", "0.00001"], "less than one sample"), (["--seconds", "inf"], "seconds=inf is not allowed"),
    (["--mask", "all"], "write START:END in seconds"), (["--temperature", "nan"], "temperature=nan is not allowed"),
    (["--device", "banana"], "Give auto, cpu, cuda"), (["--device", "cuda:77"], "no such GPU")])
def test_odd_numbers_are_answered_with_what_is_allowed(tiny, tmp_path, capsys, words, said):
    assert main(["sample", str(tiny), "--out", str(tmp_path / "out"), *words]) == 1
    told = capsys.readouterr().err
    assert said in told and "Traceback" not in told


@pytest.mark.parametrize("file, content", [("model.safetensors", b""), ("model.safetensors", b"\0" * 8), ("config.json", b""),
                                           ("config.json", b"[]"), ("config.json", b"\xff\xfe{}")])
def test_damaged_model_folders_are_named(tiny, file, content):
    (tiny / file).write_bytes(content)
    with pytest.raises(CheckpointError, match=file): foleybook.load(tiny)


def test_a_damaged_memory_of_hashes_is_made_anew(tmp_path):
    table = open_dataset(clips(tmp_path / "in", 2))
    first = cache_of(table, tmp_path / "c")
    for text in ("", "[1]", '{"x": 3}', "{", '{"x": [1]}'):
        (tmp_path / "c/hashes.json").write_text(text)
        assert cache_of(table, tmp_path / "c").digest == first.digest


# ---- what users stumbled over ----


def test_cut_and_repeated_clips_are_mentioned(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("FOLEYBOOK_CACHE", str(tmp_path / "cache"))
    noise(tmp_path / "in/rain/long.wav", 12)
    noise(tmp_path / "in/rain/short.wav", 0.2)
    words = ["prepare", str(tmp_path / "in"), "--seconds", "2", "--jobs", "1", "--out"]
    assert main([*words, str(tmp_path / "a")]) == 0
    told = capsys.readouterr().out
    assert "1 of 2 clips are longer than 2 s (up to 12.0 s): only the first 2 s" in told and "prepare --slice" in told
    assert "1 of 2 clips are shorter than 1 s (down to 0.20 s): they are repeated up to 2 s; a shorter --seconds" in told
    assert main([*words, str(tmp_path / "b"), "--slice", "fixed", "--overlap", "0.5"]) == 0
    assert "12 clips in 1 classes" in (told := capsys.readouterr().out) and "longer" not in told
    table = ClipTable.read(tmp_path / "b/clips.csv")
    assert table.df.source.nunique() == 2 and set(table.df.seconds.dropna()) == {2.0}
    assert main([*words, str(tmp_path / "c"), "--slice", "sometimes"]) == 1


def test_clips_begin_where_sounds_begin(tmp_path):
    x = np.zeros(22050 * 10)
    for t in (1, 3.5, 8): x[int(t * 22050):int((t + 0.5) * 22050)] = 0.4 * np.sin(np.arange(11025))
    sf.write(tmp_path / "walk.wav", x, 22050)
    cut = ClipTable(dict(path=["walk.wav"], label=["step"]), tmp_path).sliced(2.0, "onsets")
    assert np.allclose(cut.df.start, [0.98, 3.48, 7.98], atol=0.02) and np.allclose(cut.df.seconds, [2, 2, 2], atol=0.05)


def test_only_clips_under_a_licence(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("FOLEYBOOK_CACHE", str(tmp_path / "cache"))
    table = open_dataset(clips(tmp_path / "in", 2))
    ClipTable(table.df.assign(licence=["CC0-1.0", "CC BY 4.0", "CC-BY-NC", ""]), table.root).save(tmp_path / "t.csv")
    words = ["prepare", str(tmp_path / "t.csv"), "--seconds", "0.5", "--jobs", "1", "--out", str(tmp_path / "out"), "--licence"]
    assert main([*words, "CC0", "cc by"]) == 0
    assert ClipTable.read(tmp_path / "out/clips.csv").df.licence.tolist() == ["CC0-1.0", "CC BY 4.0"]
    assert main([*words, "MIT"]) == 1
    assert "no clip under MIT. There are" in capsys.readouterr().err


def test_recipes_say_what_they_cost_and_what_can_be_set(capsys):
    assert main(["train", "--list"]) == 0
    told = capsys.readouterr().out
    groups = [line[:-1] for line in told.splitlines() if line.endswith(":")]
    assert groups == [*GROUPS] and groups[0] == "start here"
    assert all(f"\n  {name} " in told for name in PRESETS)
    assert main(["train", "quick-cascade", "--list"]) == 0
    told = capsys.readouterr().out
    assert "codebook: 1,200 x 16 sounds, 0.25 million weights\n" in told and "prior: 800 x 8 sounds" in told
    assert main(["train", "quick-cascade", "--help"]) == 0
    told = capsys.readouterr().out
    assert "codebook.model.width=" in told and "prior.lr=" in told and "the highest learning rate" in told
    assert main(["train", "quick-cascad", "--help"]) == 1


def test_metadata_tells_what_was_in_effect(tmp_path):
    data = cache_of(open_dataset(clips(tmp_path / "in")), tmp_path / "c")
    model = cascade(top_p=0.8).train(data, tmp_path / "run", progress=False)
    made = model.sample("hiss", seed=0, progress=False)
    assert made.meta["arguments"]["top_p"] == 0.8
    varied = model.sample("hiss", seed=0, init=made, mask=(0.1, 0.3), progress=False).meta["arguments"]
    assert varied["init"] == "a sound" and varied["mask"] == "(0.1, 0.3)" and varied["top_p"] == 0.8


def test_progress_without_a_terminal(tmp_path, capsys, monkeypatch):
    from foleybook.core import clip_tables as module

    monkeypatch.setattr(module.time, "time", iter(range(0, 10**6, 11)).__next__)
    open_dataset(clips(tmp_path / "in", 2)).check(n_jobs=1, progress=True)
    assert "checked 1 of 4 clips" in capsys.readouterr().err


@pytest.mark.parametrize("words,said", [
    (["prepare", ""], "Give a folder of sounds"), (["prepare", "{in}", "--jobs", "0"], "--jobs 0"),
    (["prepare", "procedural", "--seed", "-1"], "--seed -1"), (["prepare", "{in}", "--seconds", "0.5", "--out", "{in}/hiss/0.wav"], "choose another"),
    (["vocode", "{in}/hiss/0.wav", "--vocoder", "foley"], "turns no spectrogram into sound"), (["vocode", "{in}/short.wav"], "short.wav: "),
    (["play", "pops", "--out", "x.wav", "--controls", "rate=a"], "--controls rate=a"),
    (["play", "pops", "--out", "x.wav", "--controls", "rate"], "'rate' says nothing. Write NAME=VALUE.\n"), (["gallery", "{in}"], "sampling.json"), (["gallery", "{in}/hiss", "--real-per-class", "-1"], "0 or more"),
    (["train", "quick-vqvae", "--data", "{in}", "--set", "seconds=-1"], "seconds=-1"),
    (["train", "quick-vocoder", "--data", "{in}", "--set", "clip_seconds=nan"], "clip_seconds: 'nan' is not allowed")])
def test_what_a_hostile_user_typed_is_answered(tmp_path, capsys, monkeypatch, words, said):
    monkeypatch.setenv("FOLEYBOOK_CACHE", str(tmp_path / "c"))
    monkeypatch.chdir(tmp_path)
    folder = clips(tmp_path / "in", 2)
    noise(folder / "short.wav", seconds=0.001)
    (folder / "sampling.json").write_text("[1]")
    assert main([w.replace("{in}", str(folder)) for w in words]) == 1
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("progress", [True, False])
@pytest.mark.parametrize("preset", ["fsdd-diffwave", "quick-vqvae", "quick-vocoder", "class-sounds"])
def test_a_training_says_how_far_its_cache_is(tmp_path, capsys, monkeypatch, preset, progress):
    from foleybook.core import clip_tables as module

    def cut(self, *args, **kwargs): raise KeyboardInterrupt
    monkeypatch.setattr(type(find_recipe(preset)), "build_model", cut)
    table = open_dataset(clips(tmp_path / "in", 3))
    recipe = find_recipe(preset).override(batch_size=2, device="cpu", **{k: str(tmp_path / "c") for k in ["cache_dir"]
                                                                     if hasattr(find_recipe(preset), k)})
    monkeypatch.setenv("FOLEYBOOK_CACHE", str(tmp_path / "c"))
    monkeypatch.setattr(module.time, "time", iter(range(0, 10**6, 11)).__next__)
    with pytest.raises(KeyboardInterrupt):
        recipe.train(table, tmp_path / "out", progress=progress)
    assert ("features 1 of 6 clips" in capsys.readouterr().err) == progress


def test_the_playground_is_at_the_front():
    assert foleybook.playground.__module__ == "foleybook.core.generator" and callable(foleybook.evaluate)

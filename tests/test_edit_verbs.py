"Verbs that start from a recording, and rows that training must not see"
import json

import numpy as np
import pandas as pd
import pytest
import soundfile as sf

from foleybook.apps.cli import main

TINY = ["--set", "codebook.steps=4", "codebook.epoch_steps=2", "codebook.batch_size=4"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    "A table of three folds, and a unigram cascade trained without the third"
    top, rng = tmp_path_factory.mktemp("edit"), np.random.default_rng(0)
    rows = []
    for label, tone in (("beep", 880), ("hum", 110)):
        for i in range(9):
            t = np.arange(44100) / 44100
            name = f"{label}{i}.wav"
            sf.write(top / name, 0.4 * np.sin(2 * np.pi * tone * (1 + i / 50) * t) + 0.01 * rng.normal(size=t.size), 44100)
            rows.append(dict(path=name, label=label, fold=1 + i % 3))
    pd.DataFrame(rows).to_csv(top / "clips.csv", index=False)
    assert main(["train", "unigram-cascade", "--data", str(top / "clips.csv"), "--out", str(top / "run"), "--hold-out", "fold=3",
                 "--quiet", *TINY]) == 0
    return top


def test_held_out_rows_never_enter(made):
    coded = pd.read_csv(made / "run" / "codes" / "clips.csv")
    assert sorted(coded.fold.unique()) == [1, 2] and len(coded) == 12
    assert json.loads((made / "run" / "run.json").read_text())["hold_out"] == ["fold=3"]


@pytest.mark.parametrize("rule, words", [("fold=9", "no such clip. There are 1, 2, 3"), ("colour=red", "no column"), ("fold", "NAME=VALUE")])
def test_hold_out_names_what_there_is(made, capsys, rule, words):
    assert main(["train", "unigram-cascade", "--data", str(made / "clips.csv"), "--out", str(made / "x"), "--hold-out", rule]) == 1
    assert words in capsys.readouterr().err and not (made / "x").exists()


def test_a_hole_is_filled_and_the_rest_stays(made, tmp_path):
    out = tmp_path / "filled.wav"
    words = ["--mask", "0.3:0.5", "--class", "hum", "--seed", "2", "--out", str(out), "--quiet"]
    assert main(["edit", str(made / "run"), str(made / "hum0.wav"), *words]) == 0
    (before, _), (after, rate) = sf.read(made / "hum0.wav"), sf.read(out)
    assert rate == 44100 and len(after) == len(before)
    same = np.abs(after - before) < 2**-15
    assert same[: int(0.3 * rate)].all() and same[int(0.5 * rate) + 1 :].all() and same[int(0.35 * rate) : int(0.45 * rate)].mean() < 0.1


def test_a_sound_goes_on_to_the_length_asked(made, tmp_path):
    words = ["--seconds", "1.6", "--class", "beep", "--out", str(tmp_path / "long.wav"), "-n", "2", "--quiet"]
    assert main(["edit", str(made / "run"), str(made / "beep1.wav"), *words]) == 0
    files = sorted(tmp_path.glob("*.wav"))
    assert [f.name for f in files] == ["long_0.wav", "long_1.wav"] and all(sf.info(f).frames == round(1.6 * 44100) for f in files)


def test_sample_starts_from_a_file(made, tmp_path, capsys):
    words = ["--init", str(made / "hum1.wav"), "--mask", "0.1:0.2", "0.6:0.8", "--per-class", "1", "--out", str(tmp_path / "s")]
    assert main(["sample", str(made / "run"), *words, "--quiet"]) == 0
    rows = [json.loads(line) for line in (tmp_path / "s" / "metadata.jsonl").read_text().splitlines()]
    assert rows[0]["meta"]["arguments"]["mask"] == "[(0.1, 0.2), (0.6, 0.8)]"
    assert rows[0]["meta"]["arguments"]["init"].endswith("hum1.wav")
    for bad, message in ((["--mask", "1-2"], "START:END"), (["--strength", "0.5", "--init", words[1]], "cannot honour strength")):
        assert main(["sample", str(made / "run"), *bad, "--out", str(tmp_path / "t")]) == 1
        assert message in capsys.readouterr().err


def test_models_that_cannot_loop_say_so(made, tmp_path, capsys):
    assert main(["edit", str(made / "run"), str(made / "hum1.wav"), "--loop", "--mask", "0:0.2", "--class", "hum", "--out",
                 str(tmp_path / "l.wav")]) == 1
    assert "cannot honour loop" in capsys.readouterr().err


def test_files_are_what_an_editor_wants(made, tmp_path):
    words = ["--sample-rate", "48000", "--format", "flac", "--bits", "24", "--per-class", "1", "--out", str(tmp_path)]
    assert main(["sample", str(made / "run"), *words, "--quiet"]) == 0
    infos = [sf.info(f) for f in sorted(tmp_path.glob("*.flac"))]
    assert [(i.samplerate, i.subtype) for i in infos] == [(48000, "PCM_24")] * 2


# ---- what becomes of the recording ----


def recording(file, channels=1, rate=44100, subtype="PCM_16", seconds=1.0, peak=0.4):
    "Noise of a level of its own in each channel"
    x = np.random.default_rng(0).uniform(-peak, peak, (round(seconds * rate), channels)) / np.arange(1, channels + 1)
    sf.write(file, x.astype("f4"), rate, subtype=subtype)
    return file


def edited(made, file, out, *words, start=0.3, end=0.5, classes=("hum",)):
    "What `edit` makes of a part of a file"
    return main(["edit", str(made / "run"), str(file), "--mask", f"{start}:{end}", "--class", *classes, "--out", str(out), *words])


def kept(file, out, start=0.3, end=0.5):
    "Whether everything outside of the part is as it was, sample for sample"
    (a, rate), (b, same) = sf.read(file, dtype="float32", always_2d=True), sf.read(out, dtype="float32", always_2d=True)
    outside = np.ones(len(a), bool)
    outside[int(start * rate) : int(end * rate) + 1] = False
    return rate == same and a.shape == b.shape and (a[outside] == b[outside]).all() and (a[~outside] != b[~outside]).any()


def test_no_class_is_drawn_by_chance(made, tmp_path, capsys):
    words = [str(made / "run"), str(made / "hum1.wav"), "--mask", "0.1:0.2", "--out", str(tmp_path / "x.wav")]
    assert main(["edit", *words]) == 1 and "Give --class, one of beep, hum" in capsys.readouterr().err
    assert main(["edit", *words, "--class", "bell"]) == 1 and "no class of" in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]


def test_of_several_classes_each_once(made, tmp_path, capsys):
    assert edited(made, made / "hum0.wav", tmp_path / "e.wav", "-n", "2", classes=("hum", "beep", "hum")) == 0
    files = sorted(tmp_path.glob("*.wav"))
    assert [f.name for f in files] == [f"e_{k}.wav" for k in range(4)] and all(kept(made / "hum0.wav", f) for f in files)
    assert [line.split(", ")[-1] for line in capsys.readouterr().out.splitlines()] == ["hum", "hum", "beep", "beep"]


@pytest.mark.parametrize("name, subtype", [("a.wav", "PCM_16"), ("a.wav", "PCM_24"), ("a.wav", "FLOAT"), ("a.flac", "PCM_24")])
@pytest.mark.parametrize("channels, rate", [(1, 44100), (2, 48000)])
def test_a_recording_keeps_what_it_is(made, tmp_path, capsys, name, subtype, channels, rate):
    file = recording(tmp_path / name, channels, rate, subtype)
    out = tmp_path / f"out.{name[2:]}"
    assert edited(made, file, out) == 0
    assert sf.info(out).subtype == subtype and kept(file, out) and "->" not in capsys.readouterr().out


def test_samples_beyond_one_are_kept_too(made, tmp_path):
    file = recording(tmp_path / "loud.wav", subtype="FLOAT", peak=3.0)
    assert edited(made, file, tmp_path / "out.wav") == 0 and kept(file, tmp_path / "out.wav")


def test_a_recording_as_long_as_the_model_can_make(made, tmp_path):
    "Four seconds end within a frame of the map of codes"
    file = recording(tmp_path / "whole.wav", seconds=4)
    assert edited(made, file, tmp_path / "out.wav") == 0 and kept(file, tmp_path / "out.wav")


def test_a_second_of_three_minutes(made, tmp_path):
    file = recording(tmp_path / "long.wav", seconds=180)
    assert edited(made, file, tmp_path / "out.wav", start=60, end=61) == 0 and kept(file, tmp_path / "out.wav", 60, 61)


@pytest.mark.parametrize("words, told, rate, channels, subtype", [
    (["--sample-rate", "22050"], "Hz 44100 -> 22050", 22050, 1, "PCM_16"), (["--bits", "24"], "samples PCM_16 -> PCM_24", 44100, 1, "PCM_24"),
    (["--channels", "2"], "channels 1 -> 2", 44100, 2, "PCM_16"), (["--format", "flac"], "format wav -> flac", 44100, 1, "PCM_16"),
    (["--bits", "32"], "samples PCM_16 -> FLOAT", 44100, 1, "FLOAT")])
def test_what_is_changed_is_said(made, tmp_path, capsys, monkeypatch, words, told, rate, channels, subtype):
    monkeypatch.chdir(tmp_path)
    assert edited(made, made / "hum0.wav", "", *words) == 0
    info = sf.info(next(tmp_path.glob("edited.*")))
    assert told in capsys.readouterr().out and (info.samplerate, info.channels, info.subtype) == (rate, channels, subtype)


def test_a_compressed_recording_stays_one(made, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = recording(tmp_path / "a.ogg", subtype="VORBIS")
    assert edited(made, file, "") == 0 and sf.info(tmp_path / "edited.ogg").subtype == "VORBIS"
    assert "near, not the same" in capsys.readouterr().out


@pytest.mark.parametrize("words, said", [
    (["--out", "{in}"], "is the input itself"), (["--out", "a.aup"], "name it .wav"), (["--out", "a.wav", "--format", "flac"], "different things"),
    (["--format", "mid"], "--format mid is not allowed"), (["--bits", "8"], "--bits 8 is not allowed"), (["--channels", "0"], "--channels 0"),
    (["--channels", "7"], "Give 1 or 2"),
    (["--format", "ogg", "--bits", "24"], "ogg has none"), (["--format", "flac", "--bits", "32"], "Give 16 or 24"), (["-n", "0"], "--n 0"),
    (["--sample-rate", "7"], "--sample-rate 7"), (["--sampler", "ddim"], "cannot honour sampler"), (["--temperature", "0"], "temperature=0.0")])
def test_what_edit_cannot_do_is_said(made, tmp_path, capsys, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    file = recording(tmp_path / "in.wav")
    before = file.read_bytes()
    assert edited(made, file, "", *[w.replace("{in}", "./in.wav") for w in words]) == 1
    assert said in capsys.readouterr().err and file.read_bytes() == before and [f.name for f in tmp_path.iterdir()] == ["in.wav"]


@pytest.mark.parametrize("words", [[], ["--seconds", "0.5"]])
def test_an_edit_that_asks_for_nothing(made, tmp_path, capsys, words):
    file = recording(tmp_path / "in.wav")
    assert main(["edit", str(made / "run"), str(file), "--out", str(tmp_path / "e.wav"), *words]) == 1
    assert "in.wav: nothing is to change. Give --mask" in capsys.readouterr().err


def test_a_result_that_replaces_a_file_says_so(made, tmp_path, capsys):
    (tmp_path / "e.wav").write_text("mine")
    assert edited(made, made / "hum0.wav", tmp_path / "e.wav") == 0 and "replaces what was there" in capsys.readouterr().out
    assert main(["vocode", str(tmp_path / "e.wav"), "--out", str(tmp_path / "e.wav")]) == 1
    assert "is the input itself" in capsys.readouterr().err


def test_another_recording_of_the_same_name_is_another_request(made, tmp_path, capsys):
    file, words = recording(tmp_path / "a.wav"), ["--mask", "0.1:0.2", "-n", "1", "--class", "hum", "hum", "--out", str(tmp_path / "out")]
    assert main(["sample", str(made / "run"), "--init", str(file), *words]) == 0
    first = (tmp_path / "out/hum_0.wav").read_bytes()
    assert main(["sample", str(made / "run"), "--init", str(file), *words]) == 0
    assert "1 of 1 sounds are there already" in capsys.readouterr().out
    recording(file, peak=0.2)
    assert main(["sample", str(made / "run"), "--init", str(file), *words]) == 0
    assert "is now in" in capsys.readouterr().out and (tmp_path / "out/hum_0.wav").read_bytes() != first


def test_names_need_not_be_utf_8(made, tmp_path, capsys):
    name = b"na\xefve".decode(errors="surrogateescape")
    file = recording(tmp_path / "plain.wav").rename(tmp_path / f"{name}.wav")
    assert edited(made, file, tmp_path / f"{name}_out.wav") == 0 and "na\\udcefve_out.wav: 1.00 s, hum" in capsys.readouterr().out
    assert main(["sample", str(made / "run"), "-n", "1", "--out", str(tmp_path / name)]) == 0
    assert len([*(tmp_path / name).glob("*.wav")]) == 2


@pytest.mark.parametrize("task", [dict(mask=(0.4, 0.7)), dict(strength=0.6)], ids=["hole", "variation"])
def test_a_quiet_recording_is_edited_as_quietly(task):
    "Painters know sounds at full level: a tick at a fifth of it must not be joined by ticks five times as loud"
    import torch

    import foleybook as fb

    foley, ticks = fb.load("foley"), 0.002 * torch.randn(1, 1, 44100, generator=torch.Generator().manual_seed(0))
    ticks[..., 4000::9000] += 0.8
    loud, quiet = (foley.sample("clock_tick", seed=1, init=share * ticks, steps=6, progress=False, **task).audio for share in (1.0, 0.25))
    far = (quiet - 0.25 * loud).abs().max() / loud.abs().max()
    assert far < 0.01 and quiet.abs().max() <= 0.25 * 0.9

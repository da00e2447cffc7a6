"""What leaves for an editor, an engine or a page: level, ends, loops, markers, manifest, loaders, mixtures, cuts."""
import json
import re
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch

from foleybook.apps import cli
from foleybook.apps.cli import main
from foleybook.apps.handoff import Finishing, LOADERS, loudness, manifest, save_takes, true_peak, write_loaders
from foleybook.core.sound_files import AudioError, read_audio, write_audio
from foleybook.core.sounds import listed_sounds, Sounds


def tool(name):
    "Skip where a program is not installed"
    return pytest.mark.skipif(not shutil.which(name), reason=f"no {name} on the PATH")


def chunks(file):
    "Name -> content of the chunks of a wav file, by the lengths that it gives"
    data, found, at = file.read_bytes(), {}, 12
    assert data[:4] == b"RIFF" and struct.unpack("<I", data[4:8])[0] == len(data) - 8
    while at < len(data):
        name, size = data[at : at + 4], struct.unpack("<I", data[at + 4 : at + 8])[0]
        found[name.decode()] = data[at + 8 : at + 8 + size]
        at += 8 + size + size % 2
    return found


def bursts(rate=44100, seconds=1.5, at=(0.3, 0.9), level=0.2):
    "Short noise between silence"
    x, rng = np.zeros(round(seconds * rate)), np.random.default_rng(0)
    for s in at: x[round(s * rate) : round((s + 0.2) * rate)] = rng.uniform(-level, level, round(0.2 * rate))
    return torch.from_numpy(x).float()[None]


@pytest.fixture
def takes():
    "Three sounds of two classes"
    audio = torch.stack([bursts(), bursts(level=0.02), bursts(at=(0.5,))])
    return Sounds(audio, 44100, [0, 1, 0], ["bark", "bark", "rain"], dict(model="Test", licence="CC0"))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    "A cascade of two classes that took seconds to train"
    top, rng = tmp_path_factory.mktemp("handoff"), np.random.default_rng(0)
    for label, tone in (("beep", 880), ("hum", 110)):
        (top / label).mkdir()
        for i in range(4):
            t = np.arange(44100) / 44100
            sf.write(top / label / f"{i}.wav", 0.4 * np.sin(2 * np.pi * tone * t) + 0.01 * rng.normal(size=t.size), 44100)
    tiny = ["codebook.steps=4", "codebook.epoch_steps=2", "codebook.batch_size=4"]
    assert main(["train", "unigram-cascade", "--data", str(top), "--out", str(top / "run"), "--quiet", "--set", *tiny]) == 0
    return str(top / "run")


# ---- level and ends ----


@tool("ffmpeg")
@pytest.mark.parametrize("rate,channels", [(44100, 1), (48000, 2), (16000, 1)])
def test_loudness_is_what_ffmpeg_reads(tmp_path, rate, channels):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(channels, 4 * rate)) * np.linspace(0.001, 0.2, 4 * rate)
    file = write_audio(tmp_path / "x.wav", torch.from_numpy(x).float(), rate, "FLOAT")
    told = subprocess.run(["ffmpeg", "-nostats", "-i", file, "-af", "ebur128", "-f", "null", "-"], capture_output=True, text=True).stderr
    wanted = float(re.findall(r"I:\s+(-[\d.]+) LUFS", told)[-1])
    assert abs(loudness(torch.from_numpy(x), rate) - wanted) < 0.15


@tool("ffmpeg")
def test_ffmpeg_reads_minus_23_of_what_sample_wrote(model, tmp_path):
    assert main(["sample", model, "--takes", "1", "--loudness", "-23", "--seconds", "2", "--out", str(tmp_path), "--quiet"]) == 0
    files = sorted(tmp_path.glob("*.wav"))
    assert len(files) == 2
    for file in files:
        told = subprocess.run(["ffmpeg", "-nostats", "-i", file, "-af", "ebur128", "-f", "null", "-"], capture_output=True, text=True).stderr
        assert abs(float(re.findall(r"I:\s+(-[\d.]+) LUFS", told)[-1]) - -23) <= 0.1


@pytest.mark.parametrize("format", ["wav", "flac", "ogg", "mp3"])
def test_takes_are_as_loud_as_asked(model, tmp_path, format):
    words = ["sample", model, "--takes", "2", "--format", format, "--loudness", "-26", "--peak", "-1", "--fade", "5", "--manifest", "--seconds", "1"]
    assert main([*words, "--out", str(tmp_path), "--quiet"]) == 0
    told = json.loads((tmp_path / "manifest.json").read_text())["sounds"]
    assert [s["seed"] for s in told] == [0, 1, 0, 1] and {s["class"] for s in told} == {"beep", "hum"}
    for s in told:
        x, rate = read_audio(tmp_path / s["file"], mono=False)
        assert s["file"].endswith(format) and abs(loudness(x, rate) - -26) < (0.1 if format in ("wav", "flac") else 0.6)
        assert abs(s["loudness"] - loudness(x, rate)) < 0.01 and s["peak"] <= -0.9 and s["licence"]


def test_the_same_command_goes_on_and_another_level_is_another_request(model, tmp_path, capsys):
    words = ["sample", model, "--takes", "1", "--seconds", "0.5", "--out", str(tmp_path / "s")]
    assert main([*words, "--loudness", "-26"]) == 0 and main([*words, "--loudness", "-26"]) == 0
    assert "2 of 2 sounds are there already" in capsys.readouterr().out
    assert main([*words, "--loudness", "-30"]) == 0 and (tmp_path / "s_earlier_1").is_dir()


def test_what_cannot_be_that_loud_stays_below_the_peak(tmp_path):
    click = torch.zeros(1, 44100)
    click[0, 22050:22060] = 0.5
    save_takes(Sounds(click[None], 44100), tmp_path, Finishing(loudness=-10.0, peak=-3.0))
    told = manifest(tmp_path)["sounds"][0]
    assert abs(told["peak"] - -3) < 0.1 and told["loudness"] < -20


def test_silence_is_trimmed_and_ends_are_faded(takes, tmp_path):
    files = save_takes(takes, tmp_path, Finishing(trim=True, fade=5.0))
    lengths = [sf.info(f).frames / 44100 for f in files]
    assert np.allclose(lengths, [0.8, 0.8, 0.2], atol=0.02)
    for f in files:
        x = sf.read(f)[0]
        assert abs(x[0]) < 1e-3 and abs(x[-1]) < 1e-3 and np.abs(x[220:-220]).max() > 0.01


def test_made_sounds_stay_below_full_scale_and_begin_at_zero(model, tmp_path):
    assert main(["sample", model, "--takes", "2", "--out", str(tmp_path), "--quiet"]) == 0
    for row in listed_sounds(tmp_path):
        x = sf.read(tmp_path / row["file"])[0]
        assert np.abs(x).max() <= 10 ** (-1 / 20) + 1e-4 and abs(x[0]) < 0.01 and abs(x[-1]) < 0.01


@pytest.mark.parametrize("words,said", [
    (["--loudness", "3"], "--loudness 3 is not allowed"), (["--peak", "1"], "--peak 1 is not allowed"), (["--fade", "-1"], "--fade -1"),
    (["--fade", "5", "--loop"], "--fade would break the loop"), (["--trim", "--loop"], "--trim would break the loop"),
    (["--loader", "unity"], "godot or reaper or puredata"), (["--format", "aac"], "wav or flac or ogg or mp3"),
    (["--format", "ogg", "--bits", "16"], "ogg has none"), (["--class", "beep:x+hum"], "no share"), (["--class", "beep:.5+drum"], "no class of"),
    (["--class", "beep:-1+hum"], "shares are numbers")])
def test_what_cannot_be_is_said_before_anything_is_made(model, tmp_path, capsys, words, said):
    assert main(["sample", model, *words, "--out", str(tmp_path / "x")]) == 1
    assert said in capsys.readouterr().err and not (tmp_path / "x").exists()


def test_a_rate_that_a_format_does_not_know_is_named(tmp_path):
    with pytest.raises(AudioError, match="cannot be written at 96000 Hz"):
        write_audio(tmp_path / "x.mp3", torch.zeros(1, 100), 96000)
    assert not [*tmp_path.iterdir()]


# ---- loops and markers ----


def test_loops_and_markers_are_in_the_wav(takes, tmp_path):
    files = save_takes(takes, tmp_path, Finishing(markers=True), moments=[0.1], loop=True, sample_rate=48000)
    found = chunks(files[0])
    assert struct.unpack("<2I", found["smpl"][44:52]) == (0, 71999)
    n = struct.unpack("<I", found["cue "][:4])[0]
    at = [struct.unpack("<I", found["cue "][4 + 24 * k + 20 :][:4])[0] / 48000 for k in range(n)]
    assert np.allclose(at, [0.1, 0.3, 0.9], atol=0.011)
    assert sf.info(files[0]).frames == 72000  # other readers pass over them
    told = manifest(tmp_path)["sounds"][0]
    assert told["loop"] == [0.0, 1.5] and np.allclose(told["markers"], at, atol=1e-4)


@tool("sndfile-info")
def test_libsndfile_reads_them(takes, tmp_path):
    files = save_takes(takes, tmp_path, Finishing(markers=True), loop=True)
    told = subprocess.run(["sndfile-info", files[0]], capture_output=True, text=True).stdout
    assert re.search(r"smpl :.*Loop Count\s*:\s*1", told, re.S) and re.search(r"cue  :.*Count : 2", told, re.S)


def test_markers_move_with_what_is_trimmed(takes, tmp_path):
    save_takes(takes, tmp_path, Finishing(trim=True), moments=[0.3, 0.9])
    assert np.allclose(manifest(tmp_path)["sounds"][0]["markers"], [0.005, 0.605], atol=0.01)


# ---- loaders ----


@tool("godot3-server")
def test_godot_plays_takes(takes, tmp_path):
    sounds = tmp_path / "sounds"
    save_takes(takes, sounds, Finishing(), loop=True)
    write_loaders(sounds, ["godot"])
    (tmp_path / "project.godot").write_text('config_version=4\n[application]\nconfig/name="t"\n')
    (tmp_path / "try.gd").write_text(
        'extends SceneTree\nfunc _init():\n\tvar node = load("res://sounds/foley_sounds.gd").new()\n\troot.add_child(node)\n'
        '\tvar names = []\n\tfor i in range(8):\n\t\tnames.append(node.play("bark"))\n\tvar s = node.players["bark"].stream\n'
        '\tprint(to_json([names, s.get_length(), s.loop_mode, s.loop_end]))\n\tquit()\n')
    for words in (["--editor", "--quit"], ["-s", "try.gd"]):
        done = subprocess.run(["godot3-server", "--path", tmp_path, *words], capture_output=True, text=True, timeout=120)
    names, length, mode, end = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("[[")))
    assert set(names) == {"bark_0.wav", "bark_1.wav"} and all(a != b for a, b in zip(names, names[1:]))
    assert abs(length - 1.5) < 1e-3 and mode == 1 and end == 66150


REAPER = r"""
local log, tracks, items = {}, {}, {}
reaper = setmetatable({
  get_action_context = function() return true, arg[1] end,
  CountTracks = function() return #tracks end,
  InsertTrackAtIndex = function(i) table.insert(tracks, {}) end,
  GetTrack = function(_, i) return tracks[i + 1] end,
  GetSetMediaTrackInfo_String = function(t, k, v) t.name = v end,
  AddMediaItemToTrack = function(t) local item = {track = t}; table.insert(items, item); return item end,
  SetMediaItemInfo_Value = function(i, k, v) i[k] = v end,
  AddTakeToMediaItem = function(i) return i end,
  PCM_Source_CreateFromFile = function(f) assert(io.open(f, "rb"), f); return f end,
  SetMediaItemTake_Source = function(i, s) i.source = s end,
}, {__index = function() return function() end end})
dofile(arg[1])
for _, i in ipairs(items) do print(i.track.name, i.D_POSITION, i.D_LENGTH, i.B_LOOPSRC, i.source) end
"""


@pytest.mark.skipif(not (LUA := shutil.which("lua5.4") or shutil.which("lua")), reason="no Lua on the PATH")
def test_reaper_lays_takes_on_tracks(takes, tmp_path):
    "Its own Lua, with the calls of Reaper written down"
    takes.labels[2] = 'rain "on" \\ glass'
    save_takes(takes, tmp_path, Finishing())
    write_loaders(tmp_path, ["reaper"])
    (tmp_path / "reaper.lua").write_text(REAPER)
    done = subprocess.run([LUA, tmp_path / "reaper.lua", tmp_path / "foley_sounds.lua"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert [r[0] for r in rows] == ["bark", "bark", 'rain "on" \\ glass']
    assert [float(r[1]) for r in rows] == [0, 2, 0] and {float(r[2]) for r in rows} == {1.5}


@tool("pd")
def test_pure_data_plays_a_take(takes, tmp_path):
    save_takes(takes, tmp_path, Finishing())
    write_loaders(tmp_path, ["puredata"])
    words = ["obj 0 0 loadbang", "obj 0 0 del 300", "obj 0 0 s bark", "obj 0 0 r bark-done", "obj 0 0 print DONE", "msg 0 0 \\; pd quit",
             "obj 0 0 foley_sounds", "msg 0 0 \\; pd dsp 1"]
    wires = [(0, 1), (1, 2), (3, 4), (3, 5), (0, 7)]
    (tmp_path / "try.pd").write_text("\n".join(["#N canvas 0 0 500 300 12;", *(f"#X {w};" for w in words), *(f"#X connect {a} 0 {b} 0;" for a, b in wires), ""]))
    done = subprocess.run(["pd", "-nogui", "-noaudio", "-stderr", "-open", "try.pd"], cwd=tmp_path, capture_output=True, text=True, timeout=30)
    assert "DONE: bang" in done.stderr and "couldn't" not in done.stderr and "error" not in done.stderr


def test_every_loader_names_every_file(takes, tmp_path):
    save_takes(takes, tmp_path, Finishing())
    for file in write_loaders(tmp_path, LOADERS):
        assert all(r["file"] in file.read_text() for r in listed_sounds(tmp_path))


# ---- mixtures, morphs, voices ----


def test_classes_are_mixed(tmp_path):
    words = ["sample", "foley", "--class", "dog_bark:.5+rain:.5", "rain", "--takes", "1", "--seconds", "1", "--steps", "2", "--out", str(tmp_path)]
    assert main([*words, "--quiet"]) == 0
    rows = listed_sounds(tmp_path)
    assert [r["label"] for r in rows] == ["50% dog_bark + 50% rain", "rain"]
    mixed, rain = (sf.read(tmp_path / r["file"])[0] for r in rows)
    assert np.abs(mixed - rain).max() > 0.01
    before = {f: f.stat().st_mtime_ns for f in tmp_path.glob("*.wav")}
    assert main([*words, "--quiet"]) == 0 and before == {f: f.stat().st_mtime_ns for f in tmp_path.glob("*.wav")}


def test_morph_and_restyle(tmp_path, capsys):
    from foleybook.core.generator import shipped_models

    there = shipped_models()["foley"] / "recordings"
    for label in ("rain", "dog_bark"):
        x, rate = read_audio(sorted((there / label).iterdir())[0], seconds=1.0)
        write_audio(tmp_path / f"{label}.wav", x, rate)
    rain, dog = (str(tmp_path / f"{c}.wav") for c in ("rain", "dog_bark"))
    assert main(["morph", "foley", rain, dog, "-n", "3", "--class", "rain", "dog_bark", "--steps", "4", "--out", str(tmp_path / "m")]) == 0
    rows = listed_sounds(tmp_path / "m")
    assert [r["label"] for r in rows] == ["rain", "50% rain + 50% dog_bark", "dog_bark"] or len({r["label"] for r in rows}) == 3
    sounds = [sf.read(tmp_path / "m" / r["file"])[0] for r in rows]
    assert np.corrcoef(sounds[0], sounds[2])[0, 1] < 0.9
    out = tmp_path / "voice.wav"
    assert main(["restyle", "foley", dog, "--class", "rain", "--was", "dog_bark", "--steps", "4", "--out", str(out)]) == 0
    assert sf.info(out).frames == sf.info(dog).frames
    capsys.readouterr()
    assert main(["morph", "foley", rain, dog, "-n", "1", "--out", str(tmp_path / "one")]) == 1 and "Give 2 or more" in capsys.readouterr().err
    assert main(["restyle", "foley", dog, "--out", str(out)]) == 1 and "Give --class, one of baby_cry" in capsys.readouterr().err
    assert main(["restyle", "pops", dog, "--class", "rain", "--out", str(out)]) == 1 and "cannot find the noise" in capsys.readouterr().err


def test_an_edit_without_a_class_takes_the_one_that_is_heard(tmp_path, capsys):
    "A variation, and a hole in a recording much longer than what is listened to; never a class drawn by chance"
    import foleybook as fb
    from foleybook.core.generator import shipped_models

    model, out = fb.load("foley"), ["--steps", "2", "--out", str(tmp_path / "e.wav")]
    rain = sorted((shipped_models()["foley"] / "recordings/rain").iterdir())[0]
    dog = model.sample(["dog_bark"], seed=4, seconds=1.0, steps=8, progress=False).save(tmp_path / "made")[0]
    assert main(["edit", "foley", str(dog), "--strength", "0.4", "-n", "2", *out]) == 0
    told = capsys.readouterr().out
    assert "heard as dog_bark, or" in told and "--class says" in told and told.count(" s, dog_bark") == 2
    x, rate = read_audio(rain)
    write_audio(tmp_path / "long.wav", torch.cat([x, 0.5 * bursts(rate, 5.0, at=(1.0, 1.6)), x], 1), rate)
    hole = (len(x[0]) / rate - 0.5, len(x[0]) / rate + 5.5)  # what is cut out is not asked
    assert main(["edit", "foley", str(tmp_path / "long.wav"), "--mask", "{}:{}".format(*hole), *out]) == 0
    long, rate = read_audio(tmp_path / "long.wav", model.sample_rate)
    a, b = (round(s * rate) for s in hole)
    heard = model.heard_as(torch.cat([long[:, a - 2 * rate : a], long[:, b : b + 2 * rate]], 1))[0][1]
    assert f"heard as {heard}, or" in capsys.readouterr().out
    state = torch.get_rng_state()
    found = model.heard_as(rain)
    assert sorted(label for _, label in found) == sorted(model.labels) and found == sorted(found) == model.heard_as(rain)
    assert torch.equal(torch.get_rng_state(), state) and abs(np.mean([e for e, _ in found]) - 1) < 1e-4


# ---- cuts, and the page of the demo ----


@pytest.fixture
def field(tmp_path):
    "A recording of five bursts"
    (tmp_path / "field" / "dogs").mkdir(parents=True)
    x = torch.cat([bursts(seconds=3.0, at=(k * 0.1 + 0.5,)) for k in range(5)], 1)
    write_audio(tmp_path / "field" / "dogs" / "yard.wav", x, 44100)
    return tmp_path / "field"


def test_cuts_are_heard_and_written(field, tmp_path, capsys):
    assert main(["prepare", str(field), "--plain", "--slice", "onsets", "--seconds", "1", "--files", "--out", str(tmp_path / "p")]) == 0
    told, page = capsys.readouterr().out, (tmp_path / "p" / "cuts.html").read_text()
    assert "hear the cuts: open" in told and "5 clips as files" in told
    assert page.count("<audio") == 5 and "from 0.4" in page and "yard.wav: 5 clips" in page
    files = sorted((tmp_path / "p" / "clips" / "dogs").glob("*.wav"))
    assert len(files) == 5 and all(np.abs(sf.read(f)[0][:4410]).max() > 0.1 for f in files)


def test_files_without_cuts_are_refused(field, tmp_path, capsys):
    assert main(["prepare", str(field), "--files", "--out", str(tmp_path / "p")]) == 1
    assert "--files would not be used" in capsys.readouterr().err


def test_the_demo_says_where_to_listen_in_one_line_to_click(monkeypatch, tmp_path, capsys):
    page, opened = tmp_path / "index.html", []
    monkeypatch.setattr(cli, "sample", lambda *a, **k: None)
    monkeypatch.setattr(cli, "gallery", lambda *a, **k: page)
    monkeypatch.setattr(cli, "_open_page", opened.append)
    assert main(["demo", "--out", str(tmp_path)]) == 0
    assert page.as_uri() in capsys.readouterr().out.splitlines() and opened == [page]
    assert main(["demo", "--out", str(tmp_path), "--no-browser"]) == 0 and opened == [page]


def test_no_browser_is_opened_where_nobody_looks(monkeypatch, tmp_path):
    import webbrowser

    monkeypatch.setattr(webbrowser, "open", lambda url: pytest.fail("opened"))
    assert not cli._open_page(tmp_path / "x.html")  # what is printed here is read by pytest


CHROMIUM = any(map(shutil.which, ["chromium", "chromium-browser", "google-chrome", "chrome"]))


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine")
def test_a_and_b_play_in_turns(takes, tmp_path):
    import chromium
    from foleybook.judge.pages import gallery_page

    page = tmp_path / "page.html"
    page.write_text(gallery_page(takes, takes))
    with chromium.Browser(tmp_path / "b", 900, 900) as browser:
        browser.open(page.as_uri(), "document.querySelectorAll('.ab').length == 2")
        browser.value("HTMLMediaElement.prototype.play = function() { window.played = [...document.querySelectorAll('audio')].indexOf(this) }")
        heard = []
        for _ in range(4):
            browser.click(".ab")
            heard.append((browser.value("window.played"), browser.value("document.querySelector('output').textContent")))
    assert heard == [(0, "generated"), (2, "recordings"), (1, "generated"), (3, "recordings")]

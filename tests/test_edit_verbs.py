"Verbs that start from a recording, and rows that training must not see"
import json

import numpy as np
import pandas as pd
import pytest
import soundfile as sf

from foleybook.cli import main

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
    words = ["--seconds", "1.6", "--out", str(tmp_path / "long.wav"), "--n", "2", "--quiet"]
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
    assert main(["edit", str(made / "run"), str(made / "hum1.wav"), "--loop", "--mask", "0:0.2", "--out", str(tmp_path / "l.wav")]) == 1
    assert "cannot honour loop" in capsys.readouterr().err


def test_files_are_what_an_editor_wants(made, tmp_path):
    words = ["--sample-rate", "48000", "--format", "flac", "--bits", "24", "--per-class", "1", "--out", str(tmp_path)]
    assert main(["sample", str(made / "run"), *words, "--quiet"]) == 0
    infos = [sf.info(f) for f in sorted(tmp_path.glob("*.flac"))]
    assert [(i.samplerate, i.subtype) for i in infos] == [(48000, "PCM_24")] * 2

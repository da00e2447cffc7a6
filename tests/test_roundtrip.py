"""There and back: what is kept, what is made anew, codebooks, bad files, the verb and its page"""
import json
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from foleybook.judge import roundtrip as rt
from foleybook.audio_features import GriffinLim, MelConfig
from foleybook.core.sound_files import write_audio
from foleybook.apps.cli import main
from foleybook.codebooks import VQVAE, VQVAEConfig
from foleybook.core.data_sets import read_folder
from foleybook.sound_data import procedural_sound

RATE = 22050
MEL = MelConfig(sample_rate=RATE, n_mels=16, f_max=None)


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    "Two classes with four clips each, one of them broken, and a fold"
    root, rows = tmp_path_factory.mktemp("clips"), []
    for kind in ("keyboard", "dog_bark"):
        for i in range(4):
            x = procedural_sound(kind, 1.0, RATE, seed=i)
            write_audio(root / kind / f"{i}.wav", 0.8 * x / x.abs().max(), RATE)
            rows.append(dict(path=f"{kind}/{i}.wav", label=kind, fold=1 + i // 2, licence="CC0"))
    (root / "keyboard/broken.wav").write_bytes(b"RIFF, but no sound")
    rows.append(dict(path="keyboard/broken.wav", label="keyboard", fold=2))
    pd.DataFrame(rows).to_csv(root / "clips.csv", index=False)
    return root


def measured(sounds, out, ways, **options):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        table = rt.roundtrip(read_folder(sounds), out, ways, embedder="log-mel", cache=False, times=0, progress=False, **options)
    return table, [str(w.message) for w in caught]


def test_what_did_not_change_is_kept(sounds, tmp_path, monkeypatch):
    "A second vocoder costs one row; other weights or other recordings are made anew"
    torch.manual_seed(0)
    ways = [rt.Way("plain", GriffinLim(MEL, 2)), rt.Way("coded", GriffinLim(MEL, 2), VQVAE(VQVAEConfig(mel=MEL, width=8)).eval())]
    first, told = measured(sounds, tmp_path, ways)
    assert list(first.way) == ["originals", "another recording of its class", "plain", "coded"]
    assert any("broken.wav" in t for t in told)
    assert np.allclose(first.loc[0, ["frechet", "stft", "log_spectral", "rhythm"]].astype(float), 0, atol=1e-4)
    assert first.bits_per_second[3] == ways[1].codebook.bits_per_second and first.stft[3] > first.stft[2]
    made, render = [], rt.Way.render
    monkeypatch.setattr(rt.Way, "render", lambda self, *a: made.append(self.name) or render(self, *a))
    again, _ = measured(sounds, tmp_path, [*ways, rt.Way("new", GriffinLim(MEL, 3))])
    assert set(made) == {"new"} and again.real_time[2] == first.real_time[2] and again.frechet[2] == first.frechet[2]
    made.clear()
    with torch.no_grad():
        ways[1].codebook.decoder.conv.weight.add_(1)  # now it shouts
    told = measured(sounds, tmp_path, ways)[1]
    assert set(made) == {"coded"} and any("beyond full scale" in t for t in told)
    made.clear()
    measured(sounds, tmp_path, ways[:1], seconds=0.5)
    assert set(made) == {"plain"}
    saved = json.loads((tmp_path / "roundtrip.json").read_text())
    assert saved["clips"] == 8 and saved["rows"][0]["way"] == "originals"


def test_all_is_compared_at_the_rate_of_the_recording(sounds, tmp_path):
    low = MelConfig(sample_rate=16000, n_mels=16, f_max=None)
    table, _ = measured(sounds, tmp_path, [rt.Way("full", GriffinLim(MEL, 2)), rt.Way("low", GriffinLim(low, 2))])
    assert table.top[3] < table.top[2] - 10 and table.stft_high[3] > table.stft_high[2]


def test_the_verb_writes_table_and_page(sounds, tmp_path, capsys):
    VQVAE(VQVAEConfig(mel=MelConfig.preset("dcase2023"), width=8)).save_pretrained(tmp_path / "book")
    words = ["roundtrip", "--data", sounds / "clips.csv", "--hold-out", "fold=2", "--mel", "dcase2023", "--iterations", "2",
             "--codebook", f"small={tmp_path / 'book'}", "--out", tmp_path / "out", "--embedder", "log-mel", "--device", "cpu"]
    assert main([str(w) for w in words]) == 0
    told = capsys.readouterr().out
    for name in ("originals", "Griffin-Lim 2, dcase2023", "vocoder default", "codebook small, Griffin-Lim 2"):
        assert name in told
    page = (tmp_path / "out/roundtrip.html").read_text()
    assert page.count("licence CC0") == page.count("<audio") >= 8 and "http" not in page.replace("http-equiv", "")
    assert {"roundtrip.csv", "roundtrip.json", "originals"} <= {f.name for f in (tmp_path / "out").iterdir()}


def test_what_is_kept_knows_the_settings_of_a_vocoder():
    "Not only its weights: rounds are no weights"
    way, other = (rt.ways_back([], ["default"])[0] for _ in range(2))
    assert way.hash == other.hash
    other.voice.config.sharpen = 0
    assert way.hash != other.hash


def test_no_codebook_is_told():
    rows = pd.DataFrame([dict(way="originals", folder="", accuracy=0.5, accuracy_interval=(0.4, 0.6))])
    assert rt.roundtrip_table(rows).iloc[0, 1] == "50% [40%, 60%]"
    with pytest.raises(ValueError, match="is no codebook"):
        rt.ways_back([], [], [Path(rt.__file__).parents[1] / "weights/vocoder"])


@pytest.mark.parametrize("trained", [True, False])
def test_every_way_is_told_from_other_recordings(tmp_path, trained):
    "What a way gives away, read against what recordings give away, by the embedder and by hand-made features"
    for folder, first in (("held", 0), ("seen", 100)):
        for kind in ("keyboard", "dog_bark"):
            for i in range(12):
                x = procedural_sound(kind, 1.0, RATE, seed=first + i)
                write_audio(tmp_path / folder / kind / f"{i}.wav", 0.8 * x / x.abs().max(), RATE)
    seen = read_folder(tmp_path / "seen") if trained else None
    table, _ = measured(tmp_path / "held", tmp_path / "out", [rt.Way("coarse", GriffinLim(MEL, 1))], train=seen)
    told = table[["told_apart", "apart_full", "apart_audible"]].mean(axis=1)
    assert told[2] > told[0] + 0.15 and told[2] > 0.65 and np.isnan(told[1])
    assert table.second[0] > 0.8 and table.event_l1[0] == 0 < table.event_l1[2]
    shown = rt.roundtrip_table(table)
    assert {"told_apart", "apart_audible", "second", "event_l1"} <= set(shown) and shown.told_apart[0].endswith("%")

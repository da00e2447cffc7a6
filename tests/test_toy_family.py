"""What a family's author writes, and what comes with it: a toy family in thirty lines gets conditions, lengths, masks, loops,
seeds, streams, folders, previews, a playground, the command line and the leaderboard"""
import json
import math
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
import torch
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders
from torch import nn

from foleybook.train import recipes
from foleybook.audio_features import MelConfig
from foleybook.apps.cli import main
from foleybook.core.generator import Generator, playground
from foleybook.core.randomness import ItemNoise
from foleybook.core.data_sets import open_dataset
from foleybook.train.loaders import mel_dls
from foleybook.core.rendering import MelGenerator, find_vocoder

# ---- the family ----


@dataclass
class MeansConfig:
    labels: tuple[str, ...] = ("beep", "hum")
    mel: MelConfig = field(default_factory=lambda: MelConfig.preset("fullband"))
    spread: float = 0.3
    quieter: float = 2.0  # natural log: vocoders overshoot what never occurs


class Means(MelGenerator):
    "The mean spectrum of the class, a little different in every frame"
    part_names, asks, default_seconds = ("vocoder",), frozenset({"label", "shares"}), 1.0
    honours = frozenset({"seconds", "temperature", "init", "mask", "loop"})

    def __init__(self, config: MeansConfig, vocoder=None):
        super().__init__()
        self.config, self.labels, self.vocoder = config, list(config.labels), vocoder or find_vocoder()
        self.net = nn.Linear(len(self.labels), config.mel.n_mels)

    def forward(self, mel, label):
        "Mean log-mel (b, m, 1) of each class"
        return self.net(nn.functional.one_hot(label, len(self.labels)).float())[..., None].expand_as(mel)

    def sample_mel(self, cond, n, seeds, frames, init=None, mask=None, temperature=1.0, loop=False):
        noise = ItemNoise(seeds, self.device).randn(self.mel.n_mels, frames)
        mel = self.net(cond.class_shares(len(self.labels)))[..., None] - self.config.quieter
        mel = mel + self.config.spread * temperature * noise
        return mel if mask is None else torch.where(mask, mel, init)


class LabelAsInput(Callback):
    "(mel,), (label,) becomes (mel, label), (mel,)"

    def before_batch(self): self.learn.xb, self.learn.yb = (*self.xb, *self.yb), self.xb


@dataclass
class MeansRecipe(recipes.LoopRecipe):
    "Train `Means`"
    model: MeansConfig = field(default_factory=MeansConfig)
    presets = {"toy-means": dict(steps=30, epoch_steps=10, batch_size=4, lr=0.5)}

    def dataloaders(self, data) -> DataLoaders:
        return mel_dls(open_dataset(data), self.model.mel, 1.0, bs=self.batch_size, device=self.torch_device, progress=False)

    def callbacks(self): return [LabelAsInput()]

    def build_model(self, dls) -> Means: return Means(replace(self.model, labels=tuple(dls.vocab)))


# ---- what comes with it ----


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    "Sounds of three folds, and a model trained on them by the recipe, with previews"
    top, rng = tmp_path_factory.mktemp("toy"), np.random.default_rng(0)
    t, rows = np.arange(44100) / 44100, []
    for label, tone in (("beep", 1760), ("hum", 110)):
        for i in range(9):
            sf.write(top / f"{label}{i}.wav", 0.3 * np.sin(2 * np.pi * tone * t) + 0.01 * rng.normal(size=t.size), 44100)
            rows.append(dict(path=f"{label}{i}.wav", label=label, fold=1 + i % 3))
    pd.DataFrame(rows).to_csv(top / "clips.csv", index=False)
    model = recipes.find_recipe("toy-means").override(audio_every=20).train(str(top / "clips.csv"), top / "run", progress=False)
    return top, model


def brightness(x):
    "Mean frequency of a waveform (t,), as a share of half the sample rate"
    power = torch.fft.rfft(x).abs().square()
    return (power * torch.linspace(0, 1, len(power))).sum() / power.sum()


def test_it_learned_and_its_folder_is_the_model(made):
    top, model = made
    again = Generator.from_pretrained(top / "run")
    beep, hum = again.sample(["beep", "hum"], seed=3).audio[:, 0]
    assert torch.equal(beep, model.sample("beep", seed=3).audio[0, 0]) and brightness(beep) > 2 * brightness(hum)
    assert {"pipeline.json", "recipe.json", "model.safetensors", "vocoder"} <= {p.name for p in (top / "run").iterdir()}


def test_conditions_seeds_lengths_masks_and_loops(made):
    model = made[1]
    four = model.sample(["beep", "hum", {"beep": 1, "hum": 1}, 0], seed=10, seconds=0.7)
    assert four.labels == ["beep", "hum", "50% beep + 50% hum", "beep"] and four.audio.shape[-1] == round(0.7 * 44100)
    assert torch.allclose(model.sample("hum", seed=11, seconds=0.7).audio[0], four.audio[1], atol=1e-6)
    first = model.sample("hum", seed=0)
    hole = model.sample("beep", seed=1, init=first, mask=[(0.2, 0.3), (0.6, 0.8)]).audio[0, 0]
    same = hole == first.audio[0, 0]
    assert same[: int(0.2 * 44100)].all() and same[int(0.8 * 44100) + 1 :].all() and not same[9600:12400].any()
    longer = model.sample("beep", seed=1, init=first, seconds=1.5).audio[0, 0]
    assert torch.equal(longer[:44100], first.audio[0, 0]) and longer[-4410:].abs().max() > 1e-3
    ring = model.sample("hum", seed=2, loop=True).audio[0, 0]
    assert (ring[0] - ring[-1]).abs() < 4 * ring.diff().square().mean().sqrt()
    with pytest.raises(ValueError, match="cannot honour guidance"):
        model.sample("hum", guidance=2.0)


def test_it_streams_what_it_samples(made):
    whole = made[1].sample("beep", seed=4, seconds=1.0)
    blocks = list(made[1].stream("beep", seed=4, seconds=1.0, block=0.15))
    ahead = round(0.005 * 44100)  # the limiter looks so far ahead
    assert [b.audio.shape[-1] for b in blocks[:-1]] == [round(0.15 * 44100) - ahead, *[round(0.15 * 44100)] * (len(blocks) - 2)]
    assert torch.allclose(torch.cat([b.audio for b in blocks], -1), whole.audio, atol=1e-4)


def test_previews_were_kept(made):
    steps = sorted(p.name for p in (made[0] / "run" / "samples").iterdir() if p.is_dir())
    assert steps and all((made[0] / "run" / "samples" / s / "metadata.jsonl").exists() for s in steps if s.startswith("step"))


def test_playground_turns_what_it_honours(made):
    box = playground(made[1], make=False)
    assert {k.description for k in box.children[0].children} == {"class", "seconds", "temperature", "seed", "Make"}


def test_command_line_and_leaderboard(made, tmp_path, capsys):
    top, run = made[0], str(made[0] / "run")
    assert main(["sample", run, "--per-class", "2", "--out", str(tmp_path / "s"), "--quiet"]) == 0
    rows = [json.loads(line) for line in (tmp_path / "s" / "metadata.jsonl").read_text().splitlines()]
    assert [r["label"] for r in rows] == ["beep", "beep", "hum", "hum"]
    assert main(["edit", run, str(top / "hum0.wav"), "--mask", "0.4:0.6", "--class", "beep", "--out", str(tmp_path / "e.wav"), "--quiet"]) == 0
    assert sf.info(tmp_path / "e.wav").frames == 44100
    words = ["--fold", "3", "--families", "shaped_noise", "--models", f"toy={run}", "--per-class", "3", "--seconds", "1", "--times", "4"]
    assert main(["leaderboard", str(top / "clips.csv"), *words, "--embedder", "log-mel", "--out", str(tmp_path / "b")]) == 0
    board = pd.read_csv(tmp_path / "b" / "leaderboard.csv")
    assert "toy" in " ".join(map(str, board.iloc[:, 0])) and "toy" in (tmp_path / "b" / "leaderboard.html").read_text()

"What loading a model and making sounds with it imports: the model's libraries, none of those that training needs"
import importlib
import inspect
import json
import os
import subprocess
import sys

import pytest
import torch

from foleybook.audio_features import MelConfig
from foleybook.codebooks import VQVAE, VQVAEConfig
from foleybook.core.code_maps import Cascade, PriorConfig, UnigramPrior
from foleybook.multitier_rnn import AudioTier, AudioTierConfig
from foleybook.pixelsnail import PixelSNAIL, PixelSNAILConfig
from foleybook.vocoders import ISTFTConfig, ISTFTVocoder

TRAINING = ("fastai", "sklearn", "accelerate", "pandas", "matplotlib", "librosa", "torchvision", "foleybook.training",
            "foleybook.core.feature_cache", "foleybook.core.clip_tables")
TELL = f"; import sys, json; print(json.dumps([m for m in {TRAINING} if m in sys.modules]))"


def imported(code):
    "Which of the libraries for training a fresh process holds after some code"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code + TELL], capture_output=True, text=True,
                          env=os.environ | dict(OMP_NUM_THREADS="1"))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.fixture(scope="module")
def cascades(tmp_path_factory):
    "A unigram cascade heard through Griffin-Lim, and a PixelSNAIL one heard through a vocoder"
    torch.manual_seed(0)
    top, mel, labels = tmp_path_factory.mktemp("cascades"), MelConfig.preset("dcase2023"), ["rain", "pops"]
    book = VQVAE(VQVAEConfig(mel=mel, freq_strides=(4, 2), time_strides=(4, 2), kernels=(4,), width=8, res_width=4, res_blocks=1,
                             dim=4, n_codes=16, kmeans_iters=0)).eval()
    unigram = UnigramPrior(PriorConfig((10, 4), 16, 2, book.codebook_hash)).eval()
    snail = PixelSNAIL(PixelSNAILConfig((10, 4), 16, 2, book.codebook_hash, channels=8, res_channels=8, kernel_size=3, n_blocks=1,
                                        n_res_blocks=1, n_heads=2, attention_width=8, cond_channels=8)).eval()
    Cascade(unigram, book, labels=labels).save_pretrained(top / "unigram")
    Cascade(snail, book, ISTFTVocoder(ISTFTConfig(mel, 16, 32, 2)).eval(), labels).save_pretrained(top / "pixelsnail")
    return top


@pytest.mark.parametrize("name", ["unigram", "pixelsnail"])
def test_a_sound_costs_no_library_of_training(cascades, name):
    assert imported(f"import foleybook as fb; fb.load({str(cascades / name)!r}).sample('rain', seed=1, progress=False)") == []


def test_nor_does_a_network_of_samples(tmp_path):
    AudioTier(AudioTierConfig(hidden_size=8, n_layers=1, sample_rate=8000)).save_pretrained(tmp_path)
    assert imported(f"import foleybook as fb; fb.load({str(tmp_path)!r}).sample(seed=1, seconds=0.1, progress=False)") == []


@pytest.mark.parametrize("name", ["unigram", "pixelsnail"])
def test_nor_does_the_verb(cascades, name, tmp_path):
    words = ["sample", str(cascades / name), "--out", str(tmp_path / name), "--per-class", "1", "--quiet"]
    assert imported(f"from foleybook.apps.cli import main; assert main({words}) == 0") == []
    assert len(list((tmp_path / name).rglob("*.wav"))) == 2


@pytest.mark.parametrize("module", ["evaluation", "sound_data", "judge.embedders", "judge.evaluator", "core.feature_cache"])
def test_nor_does_what_judges(module):
    "Tables of clips want pandas; fastai and what it brings are for those who train"
    assert set(imported(f"import foleybook.{module}")) <= {"pandas", "foleybook.core.feature_cache", "foleybook.core.clip_tables"}


def test_a_learner_brings_them():
    "What is looked for can be found: the same question, asked of a process that trains"
    assert {"fastai", "foleybook.training"} <= set(imported("from foleybook.train.recipes import learner, LoopRecipe; "
                                                            "LoopRecipe().opt_func(); LoopRecipe().check()"))


@pytest.mark.parametrize("room", ["train.recipes", "vocoders", "codebooks", "pixelsnail", "multitier_rnn"])
def test_annotations_can_be_shown(room):
    "What is imported inside a function is no annotation: the pages of the site evaluate those"
    module = importlib.import_module(f"foleybook.{room}")
    for thing in (getattr(module, name) for name in module.__all__):
        for f in (thing, *vars(thing).values()) if inspect.isclass(thing) else (thing,):
            if inspect.isfunction(f):
                inspect.signature(f, eval_str=True)

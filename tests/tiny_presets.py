"""Every shipped preset shrunk until a run takes a second or two, and data for it: what `shrunk` gives keeps the preset's
optimiser, schedule, losses, discriminators and quirks, and changes sizes and lengths only."""
import tempfile
from functools import cache
from pathlib import Path

import pandas as pd
import torch

from foleybook.train.codebooks import CascadeRecipe, VQVAERecipe
from foleybook.core.code_tables import CodeTable
from foleybook.train.diffwave import PatchDiffusionRecipe, WaveDiffusionRecipe
from foleybook.judge.mel_classifiers import ClassifierRecipe
from foleybook.judge.mel_classifiers import MelceptionRecipe
from foleybook.train.multitier_rnn import LevelTierRecipe, TextureRecipe, TierRecipe, TierStackRecipe
from foleybook.train.pixelsnail import FoleyRecipe, PixelSNAILRecipe
from foleybook.train.recipes import LoopRecipe, all_recipes, find_recipe
from foleybook.train.spectrogram_vqgan import VQGANRecipe
from foleybook.train.sashimi import SashimiARRecipe, SashimiRecipe
from foleybook.core.feature_cache import MelCache, WaveCache
from foleybook.sound_data import make_procedural
from foleybook.published.audio_diffusion import MelImageRecipe
from foleybook.spectrogram_diffusion import (
    FlowConfig, FlowTransformer, LatentDiffusion, LatentDiffusionConfig, MelVAE, MelVAEConfig, UNetConfig)
from foleybook.train.fewer_steps import ReflowRecipe
from foleybook.train.spectrogram_diffusion import FlowRecipe, LatentDiffusionRecipe, MelVAERecipe
from foleybook.train.transformer import TransformerRecipe, with_features
from foleybook.published.melgan import MelGANRecipe
from foleybook.train.vocoders import ISTFTRecipe, VocoderRecipe

SHIPPED = {name: cls for name, cls in sorted(all_recipes().items()) if cls.__module__.startswith("foleybook")}
LOOPS = [name for name, cls in SHIPPED.items() if issubclass(cls, LoopRecipe)]
STAGED = [name for name, cls in SHIPPED.items() if issubclass(cls, LatentDiffusionRecipe)]
CASCADES = [name for name, cls in SHIPPED.items() if issubclass(cls, CascadeRecipe)]
STACKS = [name for name, cls in SHIPPED.items() if issubclass(cls, (TextureRecipe, TierStackRecipe))]
AT_ONCE = [name for name in SHIPPED if name not in LOOPS + CASCADES + STACKS + STAGED]  # no steps, so nothing to take up again



def kind_of(name):
    "What decides how a preset trains: its class, its model's, its condition, and what else it learns with"
    recipe = find_recipe(name)
    model = getattr(recipe, "model", None)
    stages = tuple(type(getattr(recipe, s)) for s in getattr(recipe, "stages", ()))
    fields = ("optimizer", "schedule", "valid_fold", "accumulate", "ema", "turn", "critic_weight")
    told = tuple(repr(bool(v) if isinstance(v, float | int) else v) for v in (getattr(recipe, f, None) for f in fields))
    return type(recipe), type(model), str(getattr(model, "condition", "")), stages, told


def of_each_kind(names):
    "The first preset of each kind"
    return list({kind_of(name): name for name in reversed(names)}.values())[::-1]


RUN = dict(precision="float32", steps=4, epoch_steps=4, batch_size=2, log_every=1, checkpoint_steps=2, device="cpu")
CODEBOOK = {"seconds": 0.5, "model.width": 8, "model.res_blocks": 1, "model.res_width": 8, "model.dim": 8, "model.n_codes": 8}
VQGAN = {"seconds": 0.5, "frames": 32, "critic_start": 2, "critic_width": 4, "critic_layers": 1, "model.z_channels": 8, "model.dim": 8,
         "model.n_codes": 8, "model.groups": 4, "classifier.steps": 2, "classifier.epoch_steps": 2, "classifier.batch_size": 2,
         "classifier.model.width": 4, "classifier.model.embedding": 8, "classifier.model.seconds": 0.3}
PRIOR = {f"model.{k}": v for k, v in dict(channels=8, res_channels=8, attention_width=8, n_heads=2, n_blocks=1, n_res_blocks=1,
                                          cond_channels=8).items()}

NARROW = {"d_model": 4, "n_layers": 1, "pool": [4, 4], "layer.d_state": 4}


@cache
def tiny_vae():
    "Folder of an autoencoder for a `FlowRecipe` by itself"
    vae = MelVAE(MelVAEConfig(channels=8, width=8, hidden=8, depth=1)).fit(torch.randn(4, 128, 32, generator=torch.Generator().manual_seed(0)))
    return str(vae.save_pretrained(Path(tempfile.mkdtemp()) / "vae"))


def sizes(recipe):
    "Changes that make the networks of a recipe small"
    if isinstance(recipe, ReflowRecipe): return dict(pairs=6, teacher_steps=4)
    model = recipe.model
    if isinstance(recipe, VQGANRecipe): return VQGAN | {"model.widths": (8,) * len(model.widths)}
    if isinstance(model, UNetConfig):
        narrow = {"model.block_out_channels": (8,) * len(model.block_out_channels), "model.norm_num_groups": 4}
        if isinstance(recipe, MelImageRecipe): return narrow | {"image.x_res": 16, "image.y_res": 64}
        return narrow | dict(vae=tiny_vae(), seconds=0.5, frames=32)
    if isinstance(recipe, LevelTierRecipe): return {"seconds": 0.5, "frames": 32, "model.hidden_size": 8}
    if isinstance(recipe, MelVAERecipe): return {"seconds": 0.5, "frames": 16, "model.width": 8, "model.hidden": 8, "model.depth": 1}
    if isinstance(recipe, FlowRecipe):
        return {"vae": tiny_vae(), "seconds": 0.5, "frames": 32, "model.width": 16, "model.heads": 2, "model.depth": 1}
    if isinstance(recipe, VQVAERecipe): return CODEBOOK | dict(frames=16)
    if isinstance(recipe, PixelSNAILRecipe): return PRIOR | ({"model.cond_width": 16} if hasattr(model, "cond_width") else {})
    if isinstance(recipe, TransformerRecipe): return {"model.width": 8, "model.n_layers": 1, "model.n_heads": 2}
    if isinstance(recipe, SashimiARRecipe):
        return {"seconds": 0.5, "length": 512} | {f"model.net.{k}": v for k, v in (NARROW | dict(length=512)).items()}
    if isinstance(recipe, SashimiRecipe):
        small = NARROW | dict(length=4096, step_width=8, hidden=8, step_out=8)
        return {"seconds": 0.5, "segment": min(recipe.segment, 4096)} | {f"model.net.{k}": v for k, v in small.items()}
    if isinstance(recipe, PatchDiffusionRecipe):
        return {"seconds": 0.5, "model.net": dict(patch=100, width=8, depth=1, heads=2)}
    if isinstance(recipe, WaveDiffusionRecipe):
        small = dict(channels=4, skip_channels=4, n_layers=2, cycle=2, step_width=8, hidden=8, step_out=8)
        return {"seconds": 0.5, "segment": min(recipe.segment, 4096), "trim": recipe.trim} | {f"model.net.{k}": v for k, v in small.items()}
    if isinstance(recipe, TierRecipe):
        known = {"controls": ("rate",)} if "fill" in recipe.controls else {"only": "rain"} if recipe.only else {}  # no clip here has that parameter
        return {"length": 32, "clip_seconds": 0.6, "model.hidden_size": 8, **known}
    if isinstance(recipe, MelceptionRecipe): return dict(seconds=1.0)  # Inception v3 has one size
    if isinstance(recipe, ClassifierRecipe): return {"seconds": 0.5, "model.width": 4, "model.embedding": 8}
    sound = dict(segment=4096, clip_seconds=0.5)
    if isinstance(recipe, ISTFTRecipe): return sound | {"model.width": 16, "model.hidden": 16, "model.n_layers": 1}
    if isinstance(recipe, MelGANRecipe): return sound | {"model.ngf": 2, "model.n_residual_layers": 1}
    narrow = {"upsample_initial_channel": 2 ** len(model.upsample_rates), "resblock_kernel_sizes": [3], "resblock_dilation_sizes": [[1, 3]]}
    return sound | dict(d_width=0.125) | {f"model.{k}": v for k, v in narrow.items()}


def run_of(recipe):
    "A short run; what `auto` would choose depends on the moment, so that two runs could differ"
    return {k: v for k, v in RUN.items() if k != "precision" or recipe.precision == "auto"}


def shrunk(name, **changes):
    "A tiny version of a preset"
    recipe = find_recipe(name)
    if isinstance(recipe, (TextureRecipe, TierStackRecipe)):
        inner = {f"{s}.{k}": v for s, part in recipe.stages.items()
                 for k, v in (run_of(part) | sizes(part)).items() if k != "device"}
        return recipe.override(inner | dict(device="cpu") | changes)
    if not isinstance(recipe, (CascadeRecipe, LatentDiffusionRecipe)): return recipe.override(run_of(recipe) | sizes(recipe) | changes)
    stages = ["codebook", "prior", *(["vocoder_recipe"] if isinstance(recipe, FoleyRecipe) else [])]
    if isinstance(recipe, LatentDiffusionRecipe): stages = ["vae", "backbone"]
    parts = {s: getattr(recipe, s) for s in stages}
    inner = {f"{s}.{k}": v for s, part in parts.items() if isinstance(part, LoopRecipe)
             for k, v in (run_of(part) | sizes(part)).items() if k != "device"}
    inner = {k: v for k, v in inner.items() if k not in recipe.taken}
    if recipe.vocoder: inner["vocoder"] = None  # Griffin-Lim; the default one is not trained here
    if isinstance(recipe, FoleyRecipe): inner["per_class"] = 0
    return recipe.override(inner | dict(device="cpu") | changes)


class Data:
    "What the tiny recipes learn from; made when first asked for"

    def __init__(self, folder):
        self.folder, self.made = folder, {}

    def once(self, key, make):
        if key not in self.made: self.made[key] = make()
        return self.made[key]

    def clips(self):
        return self.once("clips", lambda: make_procedural(self.folder / "clips", ["rain", "footstep"], n=4, seconds=0.6, n_jobs=1))

    def pops(self):
        return self.once("pops", lambda: make_procedural(self.folder / "pops", ["pops"], n=5, seconds=0.3, sample_rate=8000, n_jobs=1))

    def codes(self):
        df = pd.DataFrame(dict(label=["rain", "footstep"] * 5))
        codes = torch.randint(8, (10, 4, 6), generator=torch.Generator().manual_seed(0))
        return CodeTable(codes, df, 8, "", 0.5, valid_idx=[8, 9])

    def painter(self):
        "What `ReflowRecipe` learns from, and the autoencoder of a `FlowRecipe`"
        vae = MelVAE.from_pretrained(tiny_vae())
        net = FlowTransformer(FlowConfig(channels=8, width=16, heads=2, depth=1, n_classes=2))
        return LatentDiffusion(LatentDiffusionConfig(("a", "b"), seconds=0.4, griffin_lim=2), vae, net).eval()

    def of(self, recipe):
        if isinstance(recipe, (CascadeRecipe, LatentDiffusionRecipe, LevelTierRecipe)): return self.clips()
        if isinstance(recipe, ReflowRecipe): return self.once("painter", self.painter)
        if isinstance(recipe, MelImageRecipe): return self.clips()
        if isinstance(recipe, FlowRecipe):
            mel = MelVAEConfig().mel
            return self.once((mel, recipe.seconds), lambda: MelCache.build(self.clips(), mel, recipe.seconds, self.folder / "cache", n_jobs=1,
                                                                           progress=False))
        if isinstance(recipe, TransformerRecipe) and recipe.model.condition != "class":
            return with_features(self.codes(), torch.rand(10, 8, 6, generator=torch.Generator().manual_seed(0)))
        if isinstance(recipe, (PixelSNAILRecipe, TransformerRecipe)): return self.codes()
        if isinstance(recipe, (TextureRecipe, TierStackRecipe)): return self.of(recipe.upper)
        if isinstance(recipe, TierRecipe): return self.clips() if recipe.classes or recipe.only else self.pops()
        options = dict(n_jobs=1, progress=False)
        if isinstance(recipe, (VocoderRecipe, WaveDiffusionRecipe, SashimiARRecipe)):
            rate = recipe.model.sample_rate if not isinstance(recipe, VocoderRecipe) else recipe.model.mel.sample_rate
            return self.once(rate, lambda: WaveCache.build(self.clips(), rate, 0.5, self.folder / "cache", **options))
        key = recipe.model.mel, recipe.seconds
        return self.once(key, lambda: MelCache.build(self.clips(), *key, self.folder / "cache", **options))

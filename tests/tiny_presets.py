"""Every shipped preset shrunk until a run takes a second or two, and data for it: what `shrunk` gives keeps the preset's
optimiser, schedule, losses, discriminators and quirks, and changes sizes and lengths only."""
import pandas as pd
import torch

from foleybook import codebooks, embedders, evaluation, multitier_rnn, pixelsnail, vocoders  # noqa: F401 (their presets)
from foleybook.codebooks import CascadeRecipe, CodeTable, VQVAERecipe
from foleybook.embedders import ClassifierRecipe
from foleybook.embedders import MelceptionRecipe
from foleybook.multitier_rnn import AudioTierRecipe
from foleybook.pixelsnail import FoleyRecipe, PixelSNAILRecipe
from foleybook.recipes import LoopRecipe, all_recipes, find_recipe
from foleybook.sound_data import MelCache, WaveCache, make_procedural
from foleybook.vocoders import ISTFTRecipe, MelGANRecipe, VocoderRecipe

SHIPPED = {name: cls for name, cls in sorted(all_recipes().items()) if cls.__module__.startswith("foleybook")}
LOOPS = [name for name, cls in SHIPPED.items() if issubclass(cls, LoopRecipe)]
CASCADES = [name for name, cls in SHIPPED.items() if issubclass(cls, CascadeRecipe)]
AT_ONCE = [name for name in SHIPPED if name not in LOOPS + CASCADES]  # no steps, so nothing to take up again

RUN = dict(precision="float32", steps=4, epoch_steps=4, batch_size=2, log_every=1, checkpoint_steps=2, device="cpu")
CODEBOOK = {"seconds": 0.5, "model.width": 8, "model.res_blocks": 1, "model.res_width": 8, "model.dim": 8, "model.n_codes": 8}
PRIOR = {f"model.{k}": v for k, v in dict(channels=8, res_channels=8, attention_width=8, n_heads=2, n_blocks=1, n_res_blocks=1,
                                          cond_channels=8).items()}


def sizes(recipe):
    "Changes that make the networks of a recipe small"
    model = recipe.model
    if isinstance(recipe, VQVAERecipe): return CODEBOOK | dict(frames=16)
    if isinstance(recipe, PixelSNAILRecipe): return PRIOR | ({"model.cond_width": 16} if "map" in model.condition else {})
    if isinstance(recipe, AudioTierRecipe): return {"length": 32, "model.hidden_size": 8}
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
    if not isinstance(recipe, CascadeRecipe): return recipe.override(run_of(recipe) | sizes(recipe) | changes)
    stages = ["codebook", "prior", *(["vocoder_recipe"] if isinstance(recipe, FoleyRecipe) else [])]
    parts = {s: getattr(recipe, s) for s in stages}
    inner = {f"{s}.{k}": v for s, part in parts.items() if isinstance(part, LoopRecipe)
             for k, v in (run_of(part) | sizes(part)).items() if k != "device"}
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

    def of(self, recipe):
        if isinstance(recipe, CascadeRecipe): return self.clips()
        if isinstance(recipe, PixelSNAILRecipe): return self.codes()
        if isinstance(recipe, AudioTierRecipe): return self.pops()
        options = dict(n_jobs=1, progress=False)
        if isinstance(recipe, VocoderRecipe):
            rate = recipe.model.mel.sample_rate
            return self.once(rate, lambda: WaveCache.build(self.clips(), rate, 0.5, self.folder / "cache", **options))
        key = recipe.model.mel, recipe.seconds
        return self.once(key, lambda: MelCache.build(self.clips(), *key, self.folder / "cache", **options))

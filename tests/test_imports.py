"""The shelves: which module may import which, by name. `python tests/test_imports.py` prints the table as it stands.

A module may import those named beside it and all that these may import. Every import counts, also one inside a function.
The cells of a notebook that are not exported may import what they like.
"""
import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "foleybook"
ABOVE = {  # module: the modules right below it
    # kernels: arrays in, arrays out
    "kernels.compiling": [],
    "kernels.log_mel": ["kernels.compiling"],
    "kernels.arithmetic": ["kernels.compiling"],
    "kernels.gated_cells": ["kernels.arithmetic"],
    "kernels.gated_layers": ["kernels.arithmetic"],
    "kernels.pixelsnail_position": ["kernels.arithmetic"],
    "kernels.cached_attention": ["kernels.arithmetic"],
    "kernels.cauchy": [],
    "kernels.counter_noise": [],
    "kernels.long_convolution": [],
    # core and train: what every family stands on
    "core.files": [],
    "core.settings": [],
    "core.sound_files": ["core.files"],
    "core.mel_config": [],
    "core.mel_transforms": ["core.mel_config", "kernels.log_mel"],
    "audio_features": ["core.sound_files", "core.settings", "core.mel_transforms"],
    "core.players": ["audio_features"],
    "core.sounds": ["core.players"],
    "core.clip_tables": ["core.sounds"],
    "core.shares": ["core.sounds"],
    "core.randomness": ["kernels.counter_noise"],
    "core.generator": ["core.sounds", "core.on_device", "core.randomness"],
    "core.feature_cache": ["core.clip_tables", "core.generator"],
    "core.data_sets": ["core.clip_tables", "core.generator"],
    "sound_data": ["core.feature_cache", "core.data_sets"],
    "train.callback_tools": ["core.files"],
    "train.loaders": ["core.feature_cache"],
    "train.step_epochs": ["train.loaders"],
    "train.distributed": ["train.step_epochs"],
    "training": ["sound_data", "train.callback_tools", "train.distributed"],
    "train.checkpoints": ["training"],
    "train.presets": [],
    "train.precision": ["training"],
    "train.warm_start": ["core.generator"],
    "train.recipes": ["train.checkpoints", "train.precision", "train.presets", "train.warm_start"],
    "core.half_precision": [],
    "core.on_device": [],
    "core.rendering": ["core.generator", "core.half_precision"],
    "core.upsampling": ["core.rendering"],
    "core.istft": ["core.rendering"],
    "core.mel_autoencoders": ["core.rendering", "train.recipes"],
    "core.code_tables": ["core.feature_cache"],
    "core.code_maps": ["core.code_tables", "core.mel_autoencoders"],
    "core.code_texts": [],
    "core.text_priors": ["core.code_maps", "core.code_texts"],
    "core.map_networks": ["core.code_maps"],
    "core.cached_pixelsnail": ["core.code_maps", "kernels.pixelsnail_position"],
    "core.cached_transformer": ["core.code_maps", "kernels.cached_attention"],
    "core.low_rank": ["core.generator"],
    "core.noise_bands": [],
    "core.control_tracks": ["core.clip_tables", "core.generator", "core.noise_bands"],
    "core.unet": ["core.generator"],
    "core.diffusion_process": ["core.settings"],
    "core.wave_diffusion": ["core.diffusion_process", "core.rendering"],
    "core.vqgan_networks": ["audio_features"],
    "core.painting": ["core.code_maps", "diffwave"],
    "core.tiers": ["core.control_tracks", "kernels.gated_cells"],
    "core.textures": ["core.tiers"],
    "core.level_tiers": ["core.tiers"],
    "core.state_spaces": ["core.generator", "kernels.cauchy", "kernels.long_convolution"],
    # the book: one family a chapter
    "vocoders": ["core.upsampling", "core.istft", "train.recipes"],
    "codebooks": ["core.map_networks"],
    "diffwave": ["core.wave_diffusion", "kernels.gated_layers"],
    "multitier_rnn": ["core.tiers", "train.recipes"],
    "pixelsnail": ["core.cached_pixelsnail"],
    "spectrogram_vqgan": ["codebooks", "judge.mel_classifiers", "core.vqgan_networks"],
    "transformer": ["core.cached_transformer", "core.text_priors"],
    "spectrogram_diffusion": ["codebooks", "vocoders", "core.painting", "core.unet"],
    "sashimi": ["diffwave", "core.state_spaces"],
    # how each family is trained
    "train.vocoders": ["vocoders", "train.recipes"],
    "train.codebooks": ["codebooks", "train.recipes"],
    "train.pixelsnail": ["pixelsnail", "train.codebooks"],
    "train.spectrogram_vqgan": ["spectrogram_vqgan", "train.codebooks"],
    "train.transformer": ["transformer", "train.codebooks"],
    "train.diffwave": ["diffwave", "train.recipes"],
    "train.sashimi": ["sashimi", "train.diffwave"],
    "train.spectrogram_diffusion": ["spectrogram_diffusion", "train.recipes"],
    "train.fewer_steps": ["train.spectrogram_diffusion"],
    "train.multitier_rnn": ["multitier_rnn", "core.textures", "core.level_tiers", "core.painting", "train.recipes"],
    # published: readers of what others released
    "published.audyn": ["core.files"],
    "published.hifigan": ["published.audyn", "train.vocoders"],
    "published.melgan": ["published.hifigan"],
    "published.bigvgan": ["published.hifigan"],
    "published.dcase2023": ["train.pixelsnail"],
    "published.specvqgan": ["spectrogram_vqgan", "transformer"],
    "published.audio_diffusion": ["train.spectrogram_diffusion", "train.diffwave"],
    "published.s4": ["train.sashimi"],
    "published.diffwave": ["published.s4"],
    "published.mtcrnn": ["train.multitier_rnn"],
    # judge: what chapter 12 explains
    "judge.mel_classifiers": ["train.recipes"],
    "judge.embedders": ["judge.mel_classifiers"],
    "judge.second_listener": ["judge.embedders"],
    "judge.clips": ["judge.embedders"],
    "judge.clouds": [],
    "evaluation": ["judge.clouds", "judge.clips", "vocoders"],
    "judge.challenge_scores": ["evaluation"],
    "judge.clip_measures": ["evaluation", "judge.second_listener"],
    "judge.texture_board": ["evaluation", "core.control_tracks"],
    "judge.evaluator": ["judge.challenge_scores", "judge.clip_measures"],
    "judge.leaderboard": ["judge.evaluator"],
    "judge.roundtrip": ["judge.evaluator"],
    "judge.pages": ["judge.clips"],
    "train.adapters": ["train.spectrogram_diffusion", "core.low_rank", "judge.second_listener", "judge.pages"],
    "judge.reports": ["judge.pages", "judge.leaderboard", "judge.roundtrip"],
    # apps: what people start
    "apps.export": ["vocoders"],
    "apps.codec": ["spectrogram_vqgan", "judge.embedders"],
    "apps.dub": ["transformer"],
    "apps.export_generator": ["spectrogram_diffusion"],
    "apps.handoff": ["core.sounds"],
    "apps.live": ["multitier_rnn"],
    "apps.in_page": ["multitier_rnn"],
    "apps.publish": ["core.generator"],
    "apps.serve": ["apps.live"],
}
LAZY = ["__init__", "apps.cli"]  # may import every module, but only inside functions
READERS = "published"  # `core.generator` names its modules by text and imports one when asked to read what it reads
FREE = ["__main__", "_modidx"]  # a few lines that start the command line; an index that imports nothing


def name_of(path):
    "core/files.py -> core.files; nothing for the empty file that makes a folder a package"
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return "" if len(parts) > 1 and parts[-1] == "__init__" else ".".join(parts)


MODULES = sorted(filter(None, (name_of(p) for p in PACKAGE.rglob("*.py"))))


def may_import(module, above=ABOVE):
    "All modules below a module"
    return {name for below in above[module] for name in (below, *may_import(below, above))}


def absolute(node, module):
    "What `from X import` means by X, inside the package; None for other packages"
    if node.level == 0:
        found = node.module or ""
        return found.removeprefix("foleybook").lstrip(".") if found.split(".")[0] == "foleybook" else None
    here = module.split(".")[:-node.level] if module != "__init__" else []
    return ".".join([*here, *(node.module or "").split(".")]).strip(".")


def names_of(node, module):
    "Names of the modules of this package that one import statement imports, or one call of `import_module` with a plain name"
    if isinstance(node, ast.ImportFrom):
        below = absolute(node, module)
        if below is None:
            return []
        return [below] if below in MODULES else [f"{below}.{a.name}".strip(".") for a in node.names]
    if isinstance(node, ast.Import):
        return [a.name.removeprefix("foleybook.") for a in node.names if a.name.startswith("foleybook.")]
    if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) == "import_module":
        value = getattr(node.args[0], "value", "") if node.args else ""
        return [value.removeprefix("foleybook.")] if isinstance(value, str) and value.startswith("foleybook.") else []
    return []


def imports(source, module="x"):
    "(at the top, inside functions): two sets of names of this package's modules"
    tree = ast.parse(source)
    tree.body = [n for n in tree.body if not (isinstance(n, ast.If) and getattr(n.test, "id", "") == "TYPE_CHECKING")]  # is never run
    functions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
    inner = {id(n) for f in ast.walk(tree) if isinstance(f, functions) for n in ast.walk(f) if n is not f}
    found = [(name, id(n) in inner) for n in ast.walk(tree) for name in names_of(n, module)]
    known = {*ABOVE, *LAZY}
    return tuple({name for name, lazy in found if lazy == inside and name in known} for inside in (False, True))


def of_module(name):
    return imports((PACKAGE / f"{name.replace('.', '/')}.py").read_text(), name)


@pytest.mark.parametrize("module", [m for m in MODULES if m not in FREE])
def test_imports_point_downward(module):
    top, inside = of_module(module)
    if module in LAZY:
        assert not top, f"{module} imports {', '.join(sorted(top))} before it is used: import inside the function"
    else:
        assert module in ABOVE, f"{module} has no row in ABOVE, the table in this file"
        wrong = sorted((top | inside) - may_import(module))
        assert not wrong, (f"{module} imports {', '.join(wrong)}, which it may not: "
                           "move what it needs into a module below both")


def test_the_table_has_no_circle():
    print(table())  # pytest -rP shows it
    assert all(module not in may_import(module) and set(ABOVE[module]) <= set(ABOVE) for module in ABOVE)


def test_nothing_imports_an_app():
    apps = {m for m in ABOVE if m.startswith("apps.")}
    assert not {m: sorted(found) for m in ABOVE if m not in apps and (found := set.union(*of_module(m)) & {*apps, "apps.cli"})}


@pytest.mark.parametrize("source,module,top,inside", [
    ("from .recipes import Recipe", "train.x", {"train.recipes"}, set()),
    ("from foleybook.train.recipes import Recipe\nimport foleybook.core.files as f, os", "x", {"train.recipes", "core.files"}, set()),
    ("from . import __version__, vocoders", "x", {"vocoders"}, set()),
    ("from ..core.files import write_text\nfrom ..vocoders import HiFiGAN", "published.x", {"core.files", "vocoders"}, set()),
    ("def f():\n    if 1:\n        from .apps.cli import main\n    return lambda: importlib.import_module('foleybook.core.files')",
     "x", set(), {"apps.cli", "core.files"}),
    ("class A:\n    from .core.files import x\n    def g(self): import foleybook.train.recipes", "x", {"core.files"}, {"train.recipes"}),
    ("from fastai.recipes import x\nimport files", "x", set(), set())])
def test_every_kind_of_import_is_seen(source, module, top, inside):
    assert imports(source, module) == (top, inside)


def table():
    "What stands in the package, beside what is allowed"
    rows = [("module", "stands on", "imports", "imports inside functions")]
    for name in [*ABOVE, *LAZY]:
        if name not in MODULES:
            continue
        order = lambda names: ", ".join(sorted(names, key=[*ABOVE, *LAZY].index)) or "-"
        rows.append((name, ", ".join(ABOVE.get(name, ["all, inside functions"])) or "-", *map(order, of_module(name))))
    widths = [max(len(r[i]) for r in rows) for i in range(2)]
    return "\n".join(f"{r[0]:{widths[0]}} | {r[1]:{widths[1]}} | {r[2]} | {r[3]}" for r in rows)


if __name__ == "__main__":
    print(table())

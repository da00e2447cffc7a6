"""Make sound effects with neural networks.

    import foleybook as fb
    model = fb.load("foley")                       # a model that comes with the book, or a folder
    model.sample("rain", seconds=4, seed=1)        # `Sounds`: plays, plots, saves
    fb.train("quick-cascade", "sounds/", "runs/mine", hold_out="fold=5")
    fb.adapt("foley", "my_sounds/", "runs/kind")   # a new kind of sound, beside a model that stays as it is
    fb.load("foley", adapters=["runs/kind"])

Everything else is in the modules. Nothing is imported before it is used.
"""
from . import train as _shelf  # now: whoever imports the shelf later would put it in the place of the function `train`

__version__ = "0.1.0"
__all__ = ["load", "train", "adapt", "evaluate", "recipes", "playground", "Sounds", "Conditions", "MelConfig", "Generator", "__version__"]

TYPE_CHECKING = False  # editors and type checkers take it as True
if TYPE_CHECKING:
    from .audio_features import MelConfig
    from .core.sounds import Sounds
    from .core.generator import Conditions, Generator, playground
    from .judge.evaluator import evaluate
    from .train.adapters import adapt

_HOMES = dict(adapt="train.adapters", evaluate="judge.evaluator", playground="core.generator", Conditions="core.generator", Generator="core.generator",
              MelConfig="audio_features", Sounds="core.sounds")


def load(
    folder,  # what `train` or `save_pretrained` wrote, the name of a model of the book, or hf://OWNER/NAME
    vocoder=None,  # folder of a vocoder to use instead of the model's own, or 'default'
    codebook=None,  # folder of the codebook of a prior that was trained alone
    device="cpu",  # where the weights go
    adapters=None,  # folders that `adapt` wrote, each with a strength if wanted: "runs/kind:0.5", or pairs (folder, strength)
    precision="float32",  # of a generator's weights while sound is made: bf16, int8, or auto (by trial), where its family can
    compile=False,  # the step that is repeated, by torch.compile; needs a C++ compiler, on a graphics card Triton
):  # a generator, a vocoder or a codebook, in eval mode
    "Open whatever model a folder holds; what was learned beside a model is put on it"
    from .core.generator import Pretrained
    from .core.low_rank import LowRank, with_adapters

    model = Pretrained.from_pretrained(folder, device)
    if adapters or isinstance(model, LowRank):
        model = with_adapters(model, adapters or ())
    if codebook is not None:
        from .core.code_maps import Cascade, CodePrior

        if not isinstance(model, CodePrior):
            raise ValueError(f"{folder}: holds a {type(model).__name__}. A codebook can be given only for a prior.")
        prior, book = model, load(codebook, device=device)
        model = Cascade(prior, book, None, prior.card.get("labels"), prior.card.get("seconds"))
        model._keep_card(prior, "codebook")
    if vocoder is not None:
        if not hasattr(model, "with_vocoder"):
            raise ValueError(f"{folder}: holds a {type(model).__name__}, which has no vocoder that could be changed.")
        model = model.with_vocoder(vocoder)
    model = model.to(device).eval()
    wishes = dict(set_precision=precision if precision != "float32" else None, set_compile="inductor" if compile else None)
    for how, value in wishes.items():
        if value is None:
            continue
        if not hasattr(model, how):
            raise ValueError(f"{folder}: holds a {type(model).__name__}, which is no generator. Leave {how[4:]} out.")
        getattr(model, how)(value)
    return model


def train(
    recipe,  # a name that `recipes` gives, or a `Recipe`
    data,  # a folder of sounds with one subfolder per class, a clip table, a known collection, or what the recipe takes
    out,  # folder for checkpoints and the finished model
    *,
    hold_out=None,  # clips that training must not see: 'fold=5', or a list of such
    device=None,  # cpu, cuda, cuda:1 ...; None: as the recipe says
    resume=True,  # a run that was stopped in `out` goes on; False begins anew
    **overrides,  # fields of the recipe to change, nested ones as **{'model.width': 64}
):  # the trained model, in eval mode
    "Train a model by a recipe"
    from pathlib import Path

    from .apps.cli import find_data
    from .train.recipes import find_recipe

    chosen = find_recipe(recipe) if isinstance(recipe, str) else recipe
    if device is not None:
        overrides["device"] = device
    if overrides:
        chosen = chosen.override(overrides)
    data = find_data(data) if isinstance(data, (str, Path)) else data
    return chosen.train(_without(data, hold_out) if hold_out else data, out, resume=resume)


def _without(data, hold_out):
    "The clips of a folder or table that are not held out"
    from pathlib import Path

    from .apps.cli import without
    from .core.clip_tables import ClipTable
    from .core.data_sets import open_dataset

    if isinstance(data, Path) and (data / "codes.json").exists():
        raise ValueError(f"{data}: hold_out={hold_out!r} comes too late, these are codes already. Hold the clips out before.")
    table = open_dataset(data) if isinstance(data, Path) else data
    if not isinstance(table, ClipTable):
        raise ValueError(f"hold_out={hold_out!r}: a {type(table).__name__} has no columns. Give a folder or a clip table.")
    return without(table, [hold_out] if isinstance(hold_out, str) else list(hold_out))


def recipes():  # name of a preset -> class of recipe
    "What can be trained, by name"
    from .train.recipes import all_recipes

    return dict(sorted(all_recipes().items()))


def __getattr__(name):
    "What is not defined here is imported from its module when it is first used"
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module 'foleybook' has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__():
    return sorted({*globals(), *__all__})

"Make sound effects with neural networks: `load`, `train`, `evaluate`, `playground`; everything else is in the modules"
__version__ = "0.1.0"
__all__ = ["load", "train", "evaluate", "playground", "__version__"]


def load(
    folder,  # what `train` or `save_pretrained` wrote, the name of a model of the book, or hf://OWNER/NAME
    vocoder=None,  # folder of a vocoder to use instead of the model's own, or 'default'
    codebook=None,  # folder of the codebook of a prior that was trained alone
    device="cpu",  # where the weights go
):  # a generator, a vocoder or a codebook, in eval mode
    "Open whatever model a folder holds"
    from .core.generator import Pretrained

    model = Pretrained.from_pretrained(folder, device)
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
    return model.to(device).eval()


def train(
    recipe,  # a name that `foleybook train --list` shows, or a `Recipe`
    data,  # a folder of sounds with one subfolder per class, a clip table, a known collection, or what the recipe takes
    out,  # folder for checkpoints and the finished model; a run that was stopped there goes on
    **overrides,  # fields of the recipe to change, nested ones as **{'model.width': 64}
):  # the trained model, in eval mode
    "Train a model by a recipe"
    from pathlib import Path

    from .apps.cli import find_data
    from .train.recipes import find_recipe

    chosen = find_recipe(recipe) if isinstance(recipe, str) else recipe
    if overrides:
        chosen = chosen.override(overrides)
    return chosen.train(find_data(data) if isinstance(data, (str, Path)) else data, out)


def __getattr__(name):
    "`evaluate` and `playground` are imported when they are first used"
    from importlib import import_module

    rooms = dict(evaluate="evaluation", playground="generator")
    if name not in rooms:
        raise AttributeError(f"module 'foleybook' has no attribute {name!r}")
    return getattr(import_module(f".{rooms[name]}", __name__), name)


def __dir__():
    return sorted({*globals(), *__all__})

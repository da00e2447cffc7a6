"`import foleybook as fb`: light, and `load`, `train`, `evaluate` do what the longer ways do"
import ast
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_run
import torch
from safetensors.torch import load_file, save_file

import foleybook as fb
from foleybook.judge import evaluator
from foleybook.audio_features import MelConfig
from foleybook.apps.cli import main
from foleybook.codebooks import VQVAE, VQVAEConfig
from foleybook.core.code_maps import Cascade, PriorConfig, UnigramPrior
from foleybook.core.files import CheckpointError
from foleybook.sound_data import make_procedural
from foleybook.vocoders import ISTFTConfig, ISTFTVocoder

PACKAGE = Path(fb.__file__).parent

HEAVY = ("torch", "fastai", "numpy", "librosa", "pandas", "matplotlib", "huggingface_hub")


@pytest.mark.parametrize("code", ["import foleybook", "import foleybook as fb; fb.__version__, fb.load, fb.train, dir(fb)",
                                  "import foleybook.apps.cli", "from foleybook.apps import cli; cli.parser_of(cli.train)"])
def test_import_is_light(code):
    "Nothing heavy is loaded before it is used, which is why the import is fast"
    done = subprocess.run([sys.executable, "-c", f"import sys; {code}; print([m for m in {HEAVY} if m in sys.modules])"],
                          capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_unknown_names_are_attribute_errors():
    assert {"load", "train", "evaluate", "__version__"} <= set(dir(fb)) and fb.evaluate is evaluator.evaluate
    with pytest.raises(AttributeError, match="foleybook.*'sing'"):
        fb.sing


def test_the_face_of_the_package():
    "What `fb.` offers, with the annotations that editors see"
    from foleybook.core.sounds import Sounds
    from foleybook.core.generator import Conditions, Generator, playground

    assert set(fb.__all__) <= set(dir(fb)) and all(getattr(fb, name) for name in fb.__all__)
    assert (fb.Sounds, fb.MelConfig, fb.Conditions) == (Sounds, MelConfig, Conditions)
    assert (fb.Generator, fb.playground) == (Generator, playground)
    assert (Path(fb.__file__).parent / "py.typed").is_file()
    assert all(callable(getattr(fb, name)) and getattr(fb, name).__doc__ for name in fb.__all__ if name != "__version__")


def test_recipes_are_listed_by_name():
    found = fb.recipes()
    assert list(found) == sorted(found) and found["quick-vqvae"].__name__ == "VQVAERecipe"


def test_train_stays_a_function():
    "A shelf of the same name is imported beside it"
    code = "import foleybook as fb; from foleybook.train import recipes; import foleybook.train.recipes; print(callable(fb.train))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "True", done.stderr


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    "A codebook, a prior for it, a vocoder and a cascade of the first two, each in a folder of its own"
    torch.manual_seed(0)
    top, mel = tmp_path_factory.mktemp("models"), MelConfig.preset("dcase2023")
    book = VQVAE(VQVAEConfig(mel=mel, freq_strides=(4, 2), time_strides=(4, 2), kernels=(4,), width=8, res_width=4, res_blocks=1,
                             dim=4, n_codes=16, kmeans_iters=0)).eval()
    prior = UnigramPrior(PriorConfig((10, 4), 16, 2, book.codebook_hash)).eval()
    book.save_pretrained(top / "codebook")
    prior.save_pretrained(top / "prior", dict(labels=["rain", "pops"]))
    ISTFTVocoder(ISTFTConfig(mel, 16, 32, 2)).save_pretrained(top / "vocoder")
    Cascade(prior, book, labels=["rain", "pops"]).save_pretrained(top / "cascade")
    return top


def test_load_opens_every_kind(folders):
    kinds = {name: type(fb.load(folders / name)).__name__ for name in ("codebook", "prior", "vocoder", "cascade")}
    assert kinds == dict(codebook="VQVAE", prior="UnigramPrior", vocoder="ISTFTVocoder", cascade="Cascade")
    assert not any(fb.load(str(folders / name)).training for name in kinds)
    with pytest.raises(CheckpointError, match="nowhere"):
        fb.load(folders / "nowhere")


def test_a_model_in_8_bits(folders, tmp_path):
    "A quarter of the size and nearly the same sound; codebooks stay exact, since codes belong to them"
    voice = fb.load(folders / "vocoder")
    voice.save_pretrained(tmp_path / "v", bits=8)
    small, z = fb.load(tmp_path / "v"), torch.randn(1, 80, 40) - 5
    exact, rounded = ({k: v for k, v in m.state_dict().items()} for m in (voice, small))
    for k, w in exact.items():
        step = w.abs().flatten(1).amax(1) / 127 if w.dim() > 1 and k in dict(voice.named_parameters()) else torch.zeros(1)
        assert ((w - rounded[k]).abs().flatten() <= 0.501 * step.max() + 1e-9).all(), k
    assert not torch.equal(voice.vocode(z), small.vocode(z))
    sizes = [(f / "model.safetensors").stat().st_size for f in (folders / "vocoder", tmp_path / "v")]
    assert sizes[1] < 0.8 * sizes[0]
    whole = fb.load(folders / "cascade")
    whole.save_pretrained(tmp_path / "c", bits=8)
    again = fb.load(tmp_path / "c")
    assert again.codebook.codebook_hash == whole.codebook.codebook_hash
    with pytest.raises(ValueError, match="bits=16"): voice.save_pretrained(tmp_path / "w", bits=16)
    state = load_file(tmp_path / "v/model.safetensors")
    name = next(k for k in state if k.endswith(".step"))
    for wrong in ({}, {name: state[name][:1]}, {name: state[name] * float("nan")}):
        save_file({k: v for k, v in state.items() if k != name} | wrong, tmp_path / "v/model.safetensors")
        with pytest.raises(CheckpointError, match="model.safetensors"): fb.load(tmp_path / "v")


def test_load_joins_parts(folders):
    whole, joined = fb.load(folders / "cascade"), fb.load(folders / "prior", codebook=folders / "codebook")
    assert joined.labels == ["rain", "pops"]
    a, b = (m.sample("rain", seed=3, progress=False).audio for m in (whole, joined))
    assert torch.equal(a, b)
    for other in (fb.load(folders / "cascade", vocoder=folders / "vocoder"),
                  fb.load(folders / "prior", folders / "vocoder", folders / "codebook")):
        assert isinstance(other.vocoder, ISTFTVocoder) and not torch.equal(a, other.sample("rain", seed=3, progress=False).audio)


@pytest.mark.parametrize("name,options,says", [("codebook", dict(vocoder="default"), "VQVAE, which has no vocoder"),
                                               ("vocoder", dict(codebook="codebook"), "only for a prior")])
def test_load_refuses_what_makes_no_sense(folders, name, options, says):
    options = {k: v if v == "default" else folders / v for k, v in options.items()}
    with pytest.raises(ValueError, match=f"{name}: .*{says}"):
        fb.load(folders / name, **options)


def test_the_command_line_says_what_makes_no_sound(folders, tmp_path, capsys):
    for name in ("codebook", "prior"):
        assert main(["sample", str(folders / name), "--out", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert "holds a VQVAE, which makes no sound by itself" in said and "UnigramPrior" in said


def test_train_is_the_recipe(tmp_path):
    short = fb.train("tiny", None, tmp_path / "a", steps=8, **{"model.width": 4})
    same = tiny_run.recipe(steps=8, **{"model.width": 4}).train(None, tmp_path / "b", progress=False)
    assert short.config.width == 4 and all(torch.equal(v, same.state_dict()[k]) for k, v in short.state_dict().items())
    again = fb.load(tmp_path / "a")
    assert torch.equal(again.sample("hiss", seed=1).audio, short.sample("hiss", seed=1).audio)


def test_train_takes_a_folder_of_sounds(tmp_path, monkeypatch):
    make_procedural(tmp_path / "sets" / "mine", ["rain", "pops"], n=4, seconds=0.5, n_jobs=1)
    monkeypatch.setenv("FOLEYBOOK_DATA", str(tmp_path / "sets"))
    monkeypatch.setenv("FOLEYBOOK_CACHE", str(tmp_path / "cache"))
    for data in (tmp_path / "sets" / "mine", "mine"):
        model = fb.train("quick-vqvae", data, tmp_path / Path(data).name / "run", steps=2, epoch_steps=2, batch_size=2, seconds=0.5,
                         frames=32, device="cpu", **{"model.width": 8, "model.kmeans_iters": 0})
        assert isinstance(model, VQVAE)
    with pytest.raises(FileNotFoundError, match="no such data"):
        fb.train("quick-vqvae", "nothing-here", tmp_path / "run")


def test_train_holds_clips_out(tmp_path, monkeypatch):
    "The recipe gets the other rows, and the device and `resume` that were asked for"
    from foleybook.core.clip_tables import ClipTable
    from foleybook.train.recipes import Recipe

    make_procedural(tmp_path / "mine", ["rain", "pops"], n=3, seconds=0.5, n_jobs=1)
    seen = []
    monkeypatch.setattr(Recipe, "train", lambda self, data, out, resume=True: seen.append((self.device, data, resume)))
    fb.train(Recipe(), tmp_path / "mine", tmp_path / "run", hold_out="label=rain", device="cpu", resume=False)
    table = ClipTable(dict(path=["a.wav", "b.wav", "c.wav"], fold=[1, 2, 5]))
    fb.train(Recipe(), table, tmp_path / "run", hold_out=["fold=5", "fold=2"])
    (device, rest, resume), (as_it_says, folds, goes_on) = seen
    assert (device, resume, as_it_says, goes_on) == ("cpu", False, "auto", True)
    assert rest.labels == ["pops"] and folds.df.path.tolist() == ["a.wav"]
    with pytest.raises(ValueError, match="a dict has no columns"): fb.train(Recipe(), {}, tmp_path / "run", hold_out="fold=5")
    with pytest.raises(ValueError, match="no such clip"): fb.train(Recipe(), table, tmp_path / "run", hold_out="fold=9")


def test_no_public_name_stands_in_two_modules():
    found = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.parse(file.read_text()).body:
            if file.name[0] != "_" and isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                for name in ast.literal_eval(node.value): found.setdefault(name, []).append(str(file.relative_to(PACKAGE)))
    assert not {name: files for name, files in found.items() if len(files) > 1}

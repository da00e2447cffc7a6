"""The command line from outside: exit codes, messages, and one whole way from a folder of sounds to a page"""
import ast
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from foleybook.apps import cli
from foleybook.apps.cli import VERBS, explain, main, matched
from foleybook.train.recipes import all_recipes, find_recipe
from foleybook.core.generator import Pretrained
from foleybook.core.settings import parse_overrides

ROOT = Path(__file__).parent.parent
TINY = ["--set", "codebook.steps=6", "codebook.epoch_steps=3", "codebook.batch_size=4",
        "prior.steps=6", "prior.epoch_steps=3", "prior.batch_size=4"]


def foleybook(*words, **env):
    "Run the program in a process of its own"
    return subprocess.run([sys.executable, "-m", "foleybook", *map(str, words)], capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **env})


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    "Two classes of three short clips, and two files that are no sounds"
    top, rng = tmp_path_factory.mktemp("sounds"), np.random.default_rng(0)
    for label, tone in (("beep", 880), ("hum", 110)):
        (top / label).mkdir()
        for i in range(6):
            t = np.arange(22050) / 22050
            sf.write(top / label / f"{i}.wav", 0.4 * np.sin(2 * np.pi * tone * (1 + i / 50) * t) + 0.01 * rng.normal(size=t.size), 22050)
    (top / "beep" / "empty.wav").write_bytes(b"")
    (top / "hum" / "notes.wav").write_text("not a sound")
    return top


def test_help_imports_nothing_heavy():
    code = ("import sys, foleybook, foleybook.apps.cli\ntry: foleybook.apps.cli.main(['--help'])\nexcept SystemExit: pass\n"
            "print(sorted({'torch', 'fastai', 'librosa', 'pandas', 'numpy'} & set(sys.modules)))")
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert out.stdout.splitlines()[-1] == "[]", out.stdout + out.stderr


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_has_help(verb, capsys):
    with pytest.raises(SystemExit) as stop:
        main([verb, "--help"])
    assert stop.value.code == 0
    import inspect

    from fastcore.docments import docments

    shown = " ".join(capsys.readouterr().out.split())
    for name, p in docments(VERBS[verb], full=True, returns=False).items():
        assert p.docment, f"{verb}: {name} has no help"
    assert inspect.getdoc(VERBS[verb]).split(";")[0][:40] in shown


def test_wrong_words_exit_2(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["dance"])
    assert stop.value.code == 2
    assert "dance" in capsys.readouterr().err


def test_unknown_recipe_names_near_ones(sounds, capsys):
    assert main(["train", "quick-cascad", "--data", str(sounds)]) == 1
    err = capsys.readouterr().err
    assert "no recipe 'quick-cascad'. Did you mean quick-cascade" in err and "Traceback" not in err


def test_unknown_override_names_near_ones(sounds, capsys):
    assert main(["train", "quick-cascade", "--data", str(sounds), "--set", "prior.stepps=3"]) == 1
    err = capsys.readouterr().err
    assert "'prior.stepps'. Did you mean prior.steps" in err
    assert main(["train", "quick-cascade", "--data", str(sounds), "--set", "prior.steps=many"]) == 1
    err = capsys.readouterr().err
    assert "prior.steps: 'many' is no number" in err


def test_missing_data_says_where_was_looked(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("FOLEYBOOK_DATA", str(tmp_path))
    assert main(["train", "quick-cascade", "--data", "nowhere"]) == 1
    assert str(tmp_path / "nowhere") in capsys.readouterr().err


def test_debug_shows_the_traceback():
    plain, debug = foleybook("train", "quick-cascade", "--data", "nowhere"), foleybook("--debug", "train", "quick-cascade", "--data", "nowhere")
    assert plain.returncode == 1 and "Traceback" not in plain.stderr
    assert debug.returncode == 1 and "Traceback" in debug.stderr


def test_doctor_reports_and_agrees_with_matched():
    done = foleybook("doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "verdict:  well" in done.stdout and "dcase2023" in done.stdout
    assert "do not belong together" in matched(dict(torch="2.12.0", torchaudio="2.11.0"))


def test_full_disk_has_a_remedy():
    assert "free some space" in explain(OSError(28, "No space left on device", "runs/x"))


def test_train_is_quiet_without_a_terminal_and_makes_a_page(sounds, tmp_path):
    run, out = tmp_path / "run", tmp_path / "out"
    done = foleybook("train", "quick-cascade", "--data", sounds, "--out", run, *TINY)
    assert done.returncode == 0, done.stdout + done.stderr
    text = done.stdout + done.stderr
    assert "empty.wav" in text and "notes.wav" in text and "2 of 14 clips left out" in text  # named, counted, not fatal
    assert "peak memory" in done.stdout and "\r" not in done.stdout
    assert done.stdout.count("few clips to train on: beep ") == 1 and "prepare --slice" in done.stdout
    assert {"pipeline.json", "run.json"} <= {p.name for p in run.iterdir()}

    done = foleybook("sample", run, "--per-class", 2, "--seed", 7, "--out", out)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [json.loads(line) for line in (out / "metadata.jsonl").read_text().splitlines()]
    assert len(rows) == 4 and sorted(r["label"] for r in rows) == ["beep", "beep", "hum", "hum"]
    assert len(list(out.glob("*.wav"))) == 4

    done = foleybook("gallery", out)
    page = (out / "index.html").read_text()
    assert done.returncode == 0 and str(out) in done.stdout
    assert page.count("<audio") == 2 * (2 + 4)  # two classes, each with two of ours and four real ones
    assert "http" not in page.replace("http-equiv", "")  # nothing from outside

    again = tmp_path / "again"
    assert foleybook("sample", run, "--per-class", 2, "--seed", 7, "--out", again, "--quiet").stdout == ""
    for a in sorted(out.glob("*.wav")):
        assert a.read_bytes() == (again / a.name).read_bytes()


def test_strict_stops_at_the_first_bad_file(sounds, tmp_path, capsys):
    assert main(["prepare", str(sounds), "--out", str(tmp_path / "p"), "--strict", "--jobs", "1"]) == 1
    err = capsys.readouterr().err
    assert ("empty.wav: is empty (0 bytes)" in err) and not (tmp_path / "p" / "clips.csv").exists()


@pytest.mark.parametrize("words,said", [
    (["procedural", "--hold-out", "fold=5"], "no such clip"), (["procedural", "--licence", "CC0"], "no clip under CC0. There are generated"),
    (["procedural", "--hold-out", "label=rain", "label=rian"], "label=rian: no such clip"),
    (["procedural", "--plain"], "--plain would not be used"), (["DATA", "--per-class", "3"], "--per-class would not be used"),
    (["DATA", "--seed", "1"], "--seed would not be used"), (["DATA", "--overlap", ".5"], "add --slice fixed"),
    (["DATA", "--slice", "onsets", "--overlap", ".5"], "add --slice fixed"), (["DATA", "--scheduler", "tcp://x"], "add --backend dask"),
    (["DATA", "--codebook", "BOOK", "--mel", "hifigan"], "has a mel of its own"), (["DATA", "--slice", "fixed", "--overlap", ".9999"], "0.95"),
    (["DATA", "--slice", "fixed", "--seconds", "1e-6"], "clips of 1e-06 s, more than 100,000"),
    (["DATA", "--hold-out", "label=beep", "label=hum"], "nothing is left of 14 clips")])
def test_prepare_uses_or_refuses_every_option(words, said, sounds, tmp_path, capsys):
    words = [str(sounds) if w == "DATA" else w for w in words]
    few = ["--per-class", "1", "--seconds", ".2"] if words[0] == "procedural" else []
    assert main(["prepare", *words, *few, "--out", str(tmp_path), "--jobs", "1"]) == 1
    assert said in capsys.readouterr().err and not (tmp_path / "clips.csv").exists()


def test_procedural_sounds_are_held_out_by_all_that_is_named(tmp_path, capsys):
    words = ["prepare", "procedural", "--per-class", "1", "--seconds", ".2", "--out", str(tmp_path), "--jobs", "1", "--licence", "generated"]
    assert main([*words, "--hold-out", "label=rain", "label=pops", "--quiet"]) == 0
    labels = {line.split(",")[1] for line in (tmp_path / "clips.csv").read_text().splitlines()[1:]}
    assert len(labels) == 6 and not labels & {"rain", "pops"}


@pytest.mark.parametrize("words,said", [
    (["--seed", "3", "--set", "seed=4"], "--seed would not be used"), (["--device", "cpu", "--set", "device=cpu"], "--device would not"),
    (["--set", "codebook.seed=4"], "Set seed of the whole"), (["--set", "codebook.lr=inf"], "finite")])
def test_a_wish_of_two_meanings_is_refused(words, said, sounds, capsys):
    assert main(["train", "quick-cascade", "--data", str(sounds), *words]) == 1
    assert said in capsys.readouterr().err


def test_empty_class_folder_is_named(tmp_path, capsys):
    (tmp_path / "dog").mkdir()
    assert main(["prepare", str(tmp_path), "--out", str(tmp_path / "out"), "--jobs", "1"]) == 1
    err = capsys.readouterr().err
    assert f"{tmp_path / 'dog'}: class folder holds no audio" in err and "no clips found" in err


def test_half_a_model_says_which_file(sounds, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{")
    assert main(["sample", str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == 1
    assert str(tmp_path / "run" / "config.json") in capsys.readouterr().err


SMALL_STAGES = dict(
    vocoder=["quick-vocoder", "model.width=32", "model.hidden=32", "model.n_layers=1", "segment=8192"],
    codebook=["quick-vqvae", "seconds=1", "frames=32", "model.width=16", "model.n_codes=32"],
    prior=["quick-pixelsnail", "model.channels=16", "model.res_channels=16", "model.n_blocks=1", "model.attention_width=16"])


def test_the_stages_of_the_foley_system_are_one_command_each(sounds, tmp_path):
    steps = ["steps=2", "epoch_steps=2", "batch_size=2"]
    for stage, (recipe, *changes) in SMALL_STAGES.items():
        data = sounds if stage != "prior" else tmp_path / "codes"
        if stage == "prior":
            main(["prepare", str(sounds), "--codebook", str(tmp_path / "codebook"), "--seconds", "1", "--out", str(data), "--quiet"])
        main(["train", recipe, "--data", str(data), "--out", str(tmp_path / stage), "--quiet", "--set", *changes, *steps])
    main(["sample", str(tmp_path / "prior"), "--codebook", str(tmp_path / "codebook"), "--vocoder", str(tmp_path / "vocoder"),
          "--per-class", "3", "--by-class", "--out", str(tmp_path / "set"), "--quiet"])
    files = sorted(f.relative_to(tmp_path / "set").as_posix() for f in (tmp_path / "set").glob("*/*.wav"))
    assert files == [f"{label}/{i:03d}.wav" for label in ("beep", "hum") for i in range(3)]
    assert {sf.info(tmp_path / "set" / f).frames for f in files} == {44100}


def test_one_command_runs_all_stages(sounds, tmp_path):
    steps = ["steps=2", "epoch_steps=2", "batch_size=2"]
    parts = dict(zip(("vocoder_recipe", "codebook", "prior"), SMALL_STAGES.values()))
    changes = [f"{part}.{c}" for part, (_, *own) in parts.items() for c in own + steps]
    strides = ["codebook.model.freq_strides=[4,2]", "codebook.model.time_strides=[4,2]"]
    words = ["train", "foley-cascade-own-vocoder", "--data", str(sounds), "--out", str(tmp_path), "--quiet", "--set", *changes, *strides,
             "per_class=2"]
    main(words)
    made = sorted((tmp_path / "evaluation_set").glob("*/*.wav"))
    assert [f.parent.name for f in made] == ["beep"] * 2 + ["hum"] * 2 and {sf.info(f).frames for f in made} == {44100}
    written = {f: f.stat().st_mtime_ns for f in made}
    main(words)  # nothing is left to do
    assert {f: f.stat().st_mtime_ns for f in made} == written


# ---- commands in the book ----


VERB = rf"foleybook (?:{'|'.join(VERBS)})\b(?!,)"


def texts():
    "(place, text) of everything that people read: prose of notebooks, their code and that of the project, pages"
    for f in sorted((ROOT / "nbs").rglob("[!_]*.ipynb")):
        for i, c in enumerate(json.loads(f.read_text(encoding="utf-8"))["cells"]):
            yield f"{f.name} cell {i}", c["cell_type"], "".join(c["source"])
    for f in [ROOT / "README.md", ROOT / "Makefile"]:
        yield f.name, "markdown", f.read_text(encoding="utf-8")
    for f in sorted([*(ROOT / "data_scripts").glob("*.py"), *(ROOT / "docs").glob("*.py")]):
        yield f.name, "code", f.read_text(encoding="utf-8")


def strings(code):
    "The strings of a cell or a file, docstrings too, and its comments"
    try: tree = ast.parse(re.sub(r"^\s*[%!].*$", "", code, flags=re.M))
    except SyntaxError: return []
    told = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    return [*told, *re.findall(r"#(.*)", code), *re.findall(r"^\s*!(.*)$", code, re.M)]


def commands():
    "(command, place, whole): whole ones stand in a line of their own, others are named in a sentence"
    found = {}
    for place, kind, text in texts():
        for t in [text] if kind == "markdown" else strings(text):
            t = t.replace("\\\n", " ")
            whole = re.findall(rf"^(?:\s*\$?\s*|\t(?:\.venv/bin/)?)({VERB}[^`\n]*)$", t, re.M) if kind == "markdown" else []
            for line in whole + re.findall(rf"as in: ({VERB}.*)", t): found[re.sub(r"(^|\s)#.*", "", line).strip()] = place, True
            for line in re.findall(rf"`\$?\s*({VERB}[^`]*)`", re.sub(r"(?s)```.*?```", "", t)):
                found.setdefault(" ".join(line.split()), (place, False))
    return [(line, *more) for line, more in sorted(found.items())]


def understood(words):
    try: return cli._program().parse_known_args(words)
    except SystemExit: return None, None


def wrong(line, whole):
    "What the program would say against a command, without running it; '' where nothing"
    words = [w for w in shlex.split(line)[1:] if w not in ("-h", "--help")]
    args, rest = understood(words)
    if not args and (not whole or "--help" in line):  # a sentence may leave files out
        args, rest = understood([words[0], "X", "X", "X", *words[1:]] if words[1:] and words[1][0] == "-" else [*words, "X", "X"])
    if not args: return "is not understood"
    if extra := [w for w in rest if w != "X"]: return f"{extra} is no option"
    if args.verb != "train": return ""
    if whole and not (args.list_ or args.data or "--help" in line): return "has no --data"
    if not args.recipe or args.recipe.isupper(): return ""
    if args.recipe not in all_recipes(): return "is no recipe"
    try: find_recipe(args.recipe).override(parse_overrides(args.set_ or []))
    except ValueError as e: return str(e)
    return ""


@pytest.mark.parametrize("line,whole,said", [
    ("foleybook train quick-diffwave data/esc10 --out runs/x", True, "no option"), ("foleybook dance", True, "not understood"),
    ("foleybook train quick-diffwav --data x", True, "no recipe"), ("foleybook train quick-diffwave --data x --set lrr=1", True, "lrr"),
    ("foleybook train quick-diffwave", True, "--data"), ("foleybook codec encode", False, ""), ("foleybook codec encode", True, "not understood"),
    ("foleybook sample MODEL --clases rain", False, "no option"), ("foleybook train RECIPE --help", False, "")])
def test_a_wrong_command_is_seen(line, whole, said, capsys):
    got = wrong(line, whole)
    assert said in got if said else not got


def test_every_command_in_the_book_is_understood(capsys):
    told = commands()
    assert len(told) > 40 and sum(whole for _, _, whole in told) > 15
    bad = [f"{place}: `{line}` {said}" for line, place, whole in told if (said := wrong(line, whole))]
    assert not bad, "\n".join(bad)


@pytest.mark.parametrize("given", [None, "active"])
def test_waiting_threads_sleep_unless_told_otherwise(given):
    env = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"} | ({"OMP_WAIT_POLICY": given} if given else {})
    code = ("import os, sys; from foleybook.apps.cli import main; assert 'torch' not in sys.modules; main(['train', '--list']); "
            "print(os.environ['OMP_WAIT_POLICY'])")
    told = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout
    assert told.split()[-1] == (given or "passive")


# ---- the program and its shell ----


def test_it_says_its_version(capsys):
    from foleybook import __version__

    with pytest.raises(SystemExit) as stop: main(["--version"])
    assert stop.value.code == 0 and capsys.readouterr().out == f"foleybook {__version__}\n"


@pytest.mark.parametrize("where", ["_open_streams", "_program", "explain"])
def test_ctrl_c_is_one_line_from_the_first_moment_on(monkeypatch, capsys, where):
    def cut(*args): raise KeyboardInterrupt
    monkeypatch.setattr(cli, where, cut)
    assert main(["train"]) == 130
    assert capsys.readouterr().err == "interrupted: the same command goes on where it was stopped\n"


def test_ctrl_c_that_an_import_turned_into_an_error(monkeypatch, capsys):
    def cut():
        "As an import does it"
        try: raise KeyboardInterrupt
        except KeyboardInterrupt as e: raise ImportError("numpy is broken") from e
    monkeypatch.setitem(VERBS, "doctor", cut)
    assert main(["doctor"]) == 130 and capsys.readouterr().err == "interrupted\n"


def test_ctrl_c_before_the_program_is_there(monkeypatch, capsys):
    import types

    from foleybook import __main__

    class Cut(types.ModuleType):
        def __getattr__(self, name): raise KeyboardInterrupt
    monkeypatch.setitem(sys.modules, "foleybook.apps.cli", Cut("foleybook.apps.cli"))
    assert __main__.main() == 130 and capsys.readouterr().err == "interrupted\n"
    assert 'foleybook = "foleybook.__main__:main"' in (ROOT / "pyproject.toml").read_text()


@pytest.fixture
def tiny_model(tmp_path):
    import tiny_run

    return tiny_run.Tiny(tiny_run.TinyConfig()).eval().save_pretrained(tmp_path / "tiny")


def shell(line):
    return subprocess.run(["bash", "-c", f"set -o pipefail; {line}"], capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"})


@pytest.mark.parametrize("words, unbuffered", [("--help", ""), ("train --list", ""), ("train --list", "1")])
def test_nobody_reads_on(words, unbuffered, monkeypatch):
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    done = shell(f"({sys.executable} -m foleybook {words}; echo code $? >&2) | true")
    assert done.stderr == "code 141\n"


def test_closed_streams(tiny_model, tmp_path):
    out = tmp_path / "out"
    done = shell(f"{sys.executable} -c 'import tiny_run; from foleybook.__main__ import main; raise SystemExit(main())' "
                 f"sample {tiny_model} -n 1 --out {out} 2>&- >&-")
    assert done.returncode == 0 and len([*out.glob("*.wav")]) == 2


def test_verbs_with_a_network_take_a_device(capsys):
    "Every verb but those that run none of their own"
    import inspect

    assert {v for v, f in VERBS.items() if "device" not in inspect.signature(f).parameters} == {"doctor", "publish"}


def test_a_student_is_trained_from_a_model(tmp_path, capsys):
    "`--data` names the teacher; clips, or what belongs to clips, are refused"
    few = ["--set", "pairs=8", "--set", "steps=2", "--set", "epoch_steps=2", "--set", "teacher_steps=4", "--set", "batch_size=2",
           "--set", f"cache_dir={tmp_path / 'cache'}"]
    assert not main(["train", "foley-student", "--data", "foley", "--out", str(tmp_path / "fast"), "--quiet", *few])
    made = Pretrained.from_pretrained(tmp_path / "fast")
    assert made.config.steps == 4 and made.config.guidance == 1
    assert main(["train", "foley-student", "--data", str(tmp_path), *few]) == 1
    assert "config.json" in (told := capsys.readouterr().err) or "student learns from" in told
    assert main(["train", "foley-student", "--data", "foley", "--hold-out", "fold=5", *few]) == 1
    assert "--data names a model" in capsys.readouterr().err

"Several processes make one request: one folder, byte for byte that of a single process"
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import tiny_run
import torch
from foleybook.apps.cli import main
from foleybook.core.files import held_folder
from foleybook.core.shares import Share, find_share, side_by_side

ROOT = Path(__file__).parent.parent
PROGRAM = "import tiny_run; from foleybook.__main__ import main; raise SystemExit(main())"


@pytest.fixture
def model(tmp_path):
    return tiny_run.Tiny(tiny_run.TinyConfig()).eval().save_pretrained(tmp_path / "tiny")


def started(words, **env):
    return subprocess.Popen([sys.executable, "-c", PROGRAM, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1", **env})


def ended(*processes):
    for p in processes:
        told, _ = p.communicate()
        assert p.returncode == 0, told


def words(model, out, *more): return ["sample", str(model), "-n", "3", "--batch", "2", "--out", str(out), *more]


def lines(listing):
    "Without `meta.seeds`, which tells what was made in one batch"
    rows = [json.loads(line) for line in listing.read_text().splitlines()]
    return [r | dict(meta={k: v for k, v in r["meta"].items() if k != "seeds"}) for r in rows]


def content(out):
    "Bytes of all files; of the listing its lines in order; without the times in sampling.json"
    return {str(f.relative_to(out)): lines(f) if f.name == "metadata.jsonl" else f.read_bytes() for f in out.rglob("*")
            if f.is_file() and f.name not in ("sampling.json", ".shares.lock")}


def settings(out):
    return {k: v for k, v in json.loads((out / "sampling.json").read_text()).items() if k != "wall_seconds"}


@pytest.mark.parametrize("more", [(), ("--by-class",), ("--loudness", "-30", "--manifest")])
def test_two_processes_write_the_bytes_of_one(model, tmp_path, more):
    ended(started(words(model, tmp_path / "one", *more)))
    ended(*(started(words(model, tmp_path / "two", *more), RANK=str(k), WORLD_SIZE="2") for k in range(2)))
    one, two = content(tmp_path / "one"), content(tmp_path / "two")
    assert len([f for f in one if f.endswith(".wav")]) == 6 and one == two
    assert settings(tmp_path / "one") == settings(tmp_path / "two")


def test_torchrun_itself(model, tmp_path):
    ended(started(words(model, tmp_path / "one")))
    (tmp_path / "program.py").write_text(PROGRAM)
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", tmp_path / "program.py",
                           *words(model, tmp_path / "two")], capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"})
    assert done.returncode == 0, done.stderr
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_the_last_share_joins_and_a_second_run_makes_nothing(model, tmp_path, capsys):
    main(words(model, tmp_path / "one", "--quiet"))
    out = tmp_path / "many"
    assert main(words(model, out, "--share", "3/3")) == 0 and "4 sounds of other shares are missing" in capsys.readouterr().out
    assert not [*out.glob("*.wav")] and len([*out.glob("shares/3-of-3/*.wav")]) == 2
    main(words(model, out, "--share", "1/3", "--quiet"))
    main(words(model, out, "--share", "2/3", "--quiet"))
    assert content(out) == content(tmp_path / "one") and not (out / "shares").exists()
    times = {f: f.stat().st_mtime_ns for f in out.glob("*.wav")}
    assert main(words(model, out, "--share", "2/3")) == 0 and "6 of 6 sounds are there already" in capsys.readouterr().out
    assert times == {f: f.stat().st_mtime_ns for f in out.glob("*.wav")}


def test_another_number_of_processes_goes_on(model, tmp_path):
    "A share that was lost is made by whoever comes; what the others made stays as it is"
    main(words(model, tmp_path / "one", "--quiet"))
    out = tmp_path / "many"
    main(words(model, out, "--share", "1/3", "--quiet"))
    kept = {f.name: f.stat().st_mtime_ns for f in out.glob("shares/*/*.wav")}
    main(words(model, out, "--quiet"))  # alone
    assert content(out) == content(tmp_path / "one") and len(kept) == 2
    assert kept.items() <= {f.name: f.stat().st_mtime_ns for f in out.glob("*.wav")}.items()


@pytest.mark.parametrize("moves", range(6))
def test_a_kill_while_joining(model, tmp_path, monkeypatch, moves):
    from foleybook.core import shares

    main(words(model, tmp_path / "one", "--quiet", "--by-class"))
    out, move, left = tmp_path / "many", os.replace, [moves]
    main(words(model, out, "--share", "1/2", "--quiet", "--by-class"))

    def cut(a, b):
        if Path(b).suffix == ".wav" and "shares" in str(a) and "shares" not in str(b):
            if not left[0]: raise KeyboardInterrupt
            left[0] -= 1
        return move(a, b)
    monkeypatch.setattr(shares.os, "replace", cut)
    assert main(words(model, out, "--share", "2/2", "--quiet", "--by-class")) == 130
    monkeypatch.undo()
    assert len([*out.rglob("*.wav")]) == 6
    main(words(model, out, "--share", "2/2", "--quiet", "--by-class"))
    assert content(out) == content(tmp_path / "one")


def test_another_request_puts_shares_beside(model, tmp_path, capsys):
    out = tmp_path / "out"
    main(words(model, out, "--share", "1/2", "--quiet"))
    before = {f.name: f.read_bytes() for f in out.rglob("*.wav")}
    with held_folder(out / "shares" / "1-of-2"):
        assert main(words(model, out, "--seconds", "0.2", "--quiet")) != 0
    assert "another process is at work" in capsys.readouterr().err
    main(words(model, out, "--seconds", "0.2", "--quiet"))
    assert len([*out.glob("*.wav")]) == 6
    assert before == {f.name: f.read_bytes() for f in (tmp_path / "out_earlier_1").rglob("*.wav")}


@pytest.mark.parametrize("text", ["0/2", "3/2", "2", "1/", "a/b", "-1/2", "array"])
def test_a_wrong_share_is_told(text, capsys):
    assert main(["sample", "pops", f"--share={text}"]) != 0
    assert "--share" in capsys.readouterr().err


def test_who_started_this_process():
    assert find_share(None, dict(SLURM_PROCID="0", SLURM_NTASKS="4")) == Share()  # a batch script of srun's steps: it is alone
    assert find_share(None, dict(SLURM_PROCID="3", SLURM_STEP_NUM_TASKS="4")) == Share(4, 4)
    assert find_share("1/1", dict(RANK="1", WORLD_SIZE="2")) == Share()
    gaps = dict(SLURM_ARRAY_TASK_ID="7", SLURM_ARRAY_TASK_MIN="1", SLURM_ARRAY_TASK_MAX="7", SLURM_ARRAY_TASK_STEP="1", SLURM_ARRAY_TASK_COUNT="3")
    with pytest.raises(ValueError, match="gaps"): find_share("array", gaps)
    grid = dict(SGE_TASK_ID="4", SGE_TASK_FIRST="2", SGE_TASK_LAST="8", SGE_TASK_STEPSIZE="2")
    assert find_share("array", grid) == Share(2, 4)
    assert sorted(i for k in range(1, 4) for i in Share(k, 3).of(range(10))) == [*range(10)]


def test_batches_are_shared_as_one_process_makes_them():
    wanted = [*range(11)]
    assert [Share(k, 2).of(wanted, 4) for k in (1, 2)] == [[0, 1, 2, 3, 8, 9, 10], [4, 5, 6, 7]]
    assert [len(Share(k, 4).of(wanted, 16)) for k in range(1, 5)] == [4, 3, 2, 2]  # too few for sixteens: pairs
    assert Share(3, 20).of(wanted, 4) == [2] and Share(12, 20).of(wanted, 4) == []


def test_side_by_side_keeps_order_runs_ahead_a_little_and_stops():
    own, seen = torch.get_num_threads(), []
    torch.set_num_threads(3)
    try:
        def f(k):
            seen.append((k, torch.get_num_threads(), threading.get_ident()))
            if k == 7: raise ValueError("seven")
            time.sleep(0.01 * (k % 3))
            return 10 * k
        made = side_by_side(f, [*range(30)], 2)
        assert [next(made) for _ in range(7)] == [0, 10, 20, 30, 40, 50, 60]
        with pytest.raises(ValueError, match="seven"): next(made)
        assert len(seen) <= 7 + 4 and {n for _, n, _ in seen} == {1} and len({i for *_, i in seen}) == 2
        assert torch.get_num_threads() == 3
    finally: torch.set_num_threads(own)


def test_the_bytes_do_not_depend_on_the_cores(tmp_path):
    asked = ["sample", "foley-fast", "--class", "rain", "dog_bark", "clock_tick", "-n", "2", "--batch", "2", "--seconds", "0.5", "--quiet"]
    own = torch.get_num_threads()
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            main([*asked, "--out", str(tmp_path / str(n))])
    finally: torch.set_num_threads(own)
    one, two = content(tmp_path / "1"), content(tmp_path / "2")
    assert len([f for f in one if f.endswith(".wav")]) == 6 and one == two

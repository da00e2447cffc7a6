"""Two processes on the CPU (gloo) train as one process with twice the batch."""
import csv
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_run
import torch
from safetensors.torch import load_file

ENV = dict(os.environ, PYTHONPATH=os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]),
           OMP_NUM_THREADS="1")


def told(text):
    "What the processes printed: JSON objects, not always on lines of their own"
    return [json.loads(found) for found in re.findall(r"\{[^{}]*\}", text)]


def rows(folder):
    with open(folder / "history.csv", newline="") as f:
        return [{k: float(v) for k, v in r.items() if v and k != "seconds"} for r in csv.DictReader(f)]


def torchrun(folder, **options):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(port),
               str(Path(tiny_run.__file__)), str(folder), *(f"{k}={v}" for k, v in options.items())]
    done = subprocess.run(command, env=ENV, timeout=300, capture_output=True, text=True)
    return done, told(done.stdout)


def test_two_processes_are_one_with_twice_the_batch(tmp_path):
    same = {"model.dropout": 0, "model.norm": "no", "game": "yes", "ema": 0.9, "accumulate": 2, "clip_norm": 1,
            "device": "cpu", "steps": 16, "permuted": "yes"}
    done, ranks = torchrun(tmp_path / "two", **same, batch_size=4)
    assert done.returncode == 0, done.stderr[-3000:]
    assert sorted(r["rank"] for r in ranks) == [0, 1] and all(r["equal"] for r in ranks)
    tiny_run.recipe(**same, batch_size=8).train(None, tmp_path / "one", progress=False)
    one, two = rows(tmp_path / "one"), rows(tmp_path / "two")
    assert len(one) == len(two)
    for a, b in zip(one, two):
        assert a == pytest.approx(b, rel=1e-5, abs=1e-6)
    a, b = load_file(tmp_path / "one" / "model.safetensors"), load_file(tmp_path / "two" / "model.safetensors")
    for k in a: torch.testing.assert_close(a[k], b[k], rtol=1e-5, atol=1e-6)


def test_two_processes_resume(tmp_path):
    script = f"""
import tiny_run
options = {{"steps": 16, "checkpoint_steps": 3, "precision": "bf16", "device": "cpu"}}
assert tiny_run.pair(r"{tmp_path / 'a'}", **options) == [0, 0]
assert any(tiny_run.pair(r"{tmp_path / 'b'}", **options, die=13))
assert tiny_run.pair(r"{tmp_path / 'b'}", **options) == [0, 0]
"""
    env = dict(ENV, PYTHONPATH=os.pathsep.join([str(Path(__file__).parent), ENV["PYTHONPATH"]]))
    done = subprocess.run([sys.executable, "-c", script], env=env, timeout=300, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert [r["equal"] for r in told(done.stdout)] == [True] * 4
    assert rows(tmp_path / "a") == rows(tmp_path / "b")

pytestmark = pytest.mark.slow


def test_the_command_line_under_torchrun_trains_as_one_process(tmp_path):
    import numpy as np
    import soundfile as sf

    for label, tone in (("beep", 880), ("hum", 110)):
        (tmp_path / "sounds" / label).mkdir(parents=True)
        for i in range(8):
            t = np.arange(22050) / 22050
            sf.write(tmp_path / "sounds" / label / f"{i}.wav", 0.4 * np.sin(2 * np.pi * (tone + 10 * i) * t), 22050)

    def words(out, batch_size):
        return ["-m", "foleybook", "train", "quick-vqvae", "--data", str(tmp_path / "sounds"), "--out", str(tmp_path / out),
                "--device", "cpu", "--set", f"batch_size={batch_size}", "steps=6", "epoch_steps=3", "log_every=1", "seconds=1",
                "frames=32", "model.width=8", "model.kmeans_iters=0", "model.restart_below=0"]

    env = dict(ENV, FOLEYBOOK_CACHE=str(tmp_path / "cache"))
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    one = subprocess.run([sys.executable, *words("one", 6)], env=env, timeout=300, capture_output=True, text=True)
    assert one.returncode == 0, one.stderr[-3000:]
    two = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(port),
                          *words("two", 3)], env=env, timeout=300, capture_output=True, text=True)
    assert two.returncode == 0, two.stderr[-3000:]
    a, b = ([r["loss"] for r in rows(tmp_path / k) if "loss" in r] for k in ("one", "two"))
    assert len(a) == 6 and a == pytest.approx(b, rel=1e-4)
    assert (tmp_path / "two" / "run.json").exists()

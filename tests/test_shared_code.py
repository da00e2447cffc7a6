"""Machine code that several processes compile, keep and read at once: what each runs is its own, whatever the others do meanwhile."""
import os
import subprocess
import sys
from pathlib import Path

import pytest

MODULE = """
import sys, time
from numba import njit
from numba.core.caching import IndexDataCacheFile
from foleybook.kernels.compiling import shared_code

@shared_code
@njit(cache=True)
def doubled(x): return x + x{plus}

def slow(f):  # a disk on which everything takes long
    def later(*args):
        time.sleep(.3)
        return f(*args)
    return later

if __name__ == "__main__":
    for name in ("_save_index", "_save_data"): setattr(IndexDataCacheFile, name, slow(getattr(IndexDataCacheFile, name)))
    for x in map(eval, sys.argv[1:]): print(repr(doubled(x)))
"""


@pytest.fixture
def begin(tmp_path):
    "Start a process that compiles for these numbers, in this order"
    def begin(*numbers, plus="", env={}):
        (tmp_path / "kept.py").write_text(MODULE.format(plus=plus))
        os.utime(tmp_path / "kept.py", (len(plus), len(plus)))
        root = str(Path(__file__).resolve().parent.parent)
        return subprocess.Popen([sys.executable, "kept.py", *numbers], cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                env=os.environ | dict(NUMBA_CACHE_DIR=str(tmp_path / "cache"), PYTHONPATH=root) | env)
    return begin


def said(process):
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err[-1500:]
    return out.split()


def test_two_first_runs_at_once(begin):
    both = [begin("1", "1.5"), begin("1.5", "1")]
    assert [said(p) for p in both] == [["2", "3.0"], ["3.0", "2"]]
    assert said(begin("1", "1.5", "1j")) == ["2", "3.0", "2j"]


def test_a_kill_between_index_and_code(begin, tmp_path):
    assert said(begin("1")) == ["2"]
    (code,) = (tmp_path / "cache").rglob("*.nbc")
    older = code.read_bytes()
    assert said(begin("1", plus=" + 1")) == ["3"]
    code.write_bytes(older[: len(older) // 2])  # cut by a full disk
    assert said(begin("1", plus=" + 1")) == ["3"] and said(begin("1", plus=" + 1")) == ["3"]


def test_code_of_an_earlier_source_goes_before_the_new_index_comes(begin, tmp_path):
    assert said(begin("1", "1.5")) == ["2", "3.0"]
    assert len([*(tmp_path / "cache").rglob("*.nbc")]) == 2
    assert said(begin("1.5", plus=" + 1")) == ["4.0"]
    assert len([*(tmp_path / "cache").rglob("*.nbc")]) == 1


def test_two_ranks_begin_at_once(tmp_path):
    code = ("import torch\nfrom foleybook.audio_features import MelConfig, log_mel\ntorch.manual_seed(0)\n"
            "print(log_mel(torch.randn(1, 4096), MelConfig.preset('fullband')).double().sum().item())")
    root = str(Path(__file__).resolve().parent.parent)
    env = os.environ | dict(NUMBA_CACHE_DIR=str(tmp_path), PYTHONPATH=root)
    ranks = [subprocess.Popen([sys.executable, "-c", code], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env) for _ in range(2)]
    first = [said(p) for p in ranks]
    later = said(subprocess.Popen([sys.executable, "-c", code], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env))
    assert first == [later, later]

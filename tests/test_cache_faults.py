"The feature cache under kill, two writers, full disk, bad files and other configurations"
import errno
import json
import multiprocessing
import os
import resource
import signal
import time
import warnings

import numpy as np
import pytest
import soundfile
import torch

from foleybook import sound_data
from foleybook.audio_features import MelConfig, MelMismatch, log_mel
from foleybook.data_sets import open_dataset
from foleybook.sound_data import CacheError, ClipTable, MelCache, TableError, WaveCache, mel_dls

MEL = MelConfig.preset("dcase2023")
SECONDS, N = 0.1, 200
fork = multiprocessing.get_context("fork")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    "200 short clips of noise, each its own"
    folder, rng = tmp_path_factory.mktemp("clips"), np.random.default_rng(0)
    for i in range(N):
        soundfile.write(folder / f"{i:03d}.wav", rng.uniform(-0.5, 0.5, 2205), 22050, subtype="PCM_16")
    return ClipTable(dict(path=[f"{i:03d}.wav" for i in range(N)], label=["a", "b"] * (N // 2)), folder)


def build(table, folder, **kwargs):
    return MelCache.build(table, MEL, SECONDS, folder, progress=False, **kwargs)


def value(file):
    "What the stand-in feature gives for a clip"
    return np.full((MEL.n_mels, MEL.frames(round(SECONDS * 22050))), float(os.path.basename(file)[:3]), np.float32)


def slow_child(table, folder, log, pause):
    "Build with a stand-in feature that takes its time and logs each clip"

    def feature(self, file, start, seconds):
        time.sleep(pause)
        with open(log, "a") as f:
            f.write(os.path.basename(file) + "\n")
        return value(file)

    sound_data._Feature.__call__ = feature
    build(table, folder, n_jobs=1)


def start(*args):
    process = fork.Process(target=slow_child, args=args)
    process.start()
    return process


def fast(monkeypatch, log):
    def feature(self, file, start, seconds):
        with open(log, "a") as f:
            f.write(os.path.basename(file) + "\n")
        return value(file)

    monkeypatch.setattr(sound_data._Feature, "__call__", feature)


def test_kill_in_the_middle_keeps_the_work(table, tmp_path, monkeypatch):
    child = start(table, tmp_path / "c", tmp_path / "log", 0.01)
    deadline = time.time() + 60
    while not list((tmp_path / "c").glob("*.part/state.json")) and time.time() < deadline:
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    (note,) = (tmp_path / "c").glob("*.part/state.json")
    done = json.loads(note.read_text())["done"]
    assert 64 <= done < N and not list((tmp_path / "c").glob("*/meta.json"))
    fast(monkeypatch, tmp_path / "log2")
    cache = build(table, tmp_path / "c", n_jobs=1)
    assert len((tmp_path / "log2").read_text().split()) == N - done  # only what was missing
    assert cache.mels[:, 0, 0].tolist() == list(range(N))
    assert not list((tmp_path / "c").glob("*.part"))


def test_two_writers_share_the_work(table, tmp_path):
    children = [start(table, tmp_path / "c", tmp_path / "log", 0.002) for _ in range(2)]
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0, 0]
    assert len((tmp_path / "log").read_text().split()) == N
    (path,) = (p.parent for p in (tmp_path / "c").glob("*/meta.json"))
    assert MelCache(path).mels[:, 0, 0].tolist() == list(range(N))


def _limited(table, folder, out):
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    sound_data._Feature.__call__ = lambda self, file, start, seconds: value(file)
    try:
        build(table, folder, n_jobs=1)
    except CacheError as e:
        out.put(str(e))
    else:
        out.put("no error")


def test_disk_full_is_known_at_once(table, tmp_path):
    kept = build(table.subset(range(5)), tmp_path)
    out = fork.Queue()
    child = fork.Process(target=_limited, args=(table, tmp_path, out))
    child.start()
    message = out.get(timeout=60)
    child.join()
    assert "cannot write the cache of" in message and "Free some room" in message and str(tmp_path) in message
    assert not list(tmp_path.glob("*.part")) and np.isfinite(MelCache(kept.path).mels).all()
    assert len(build(table, tmp_path)) == N  # room again: works


@pytest.mark.parametrize("call", ["posix_fallocate", "fsync", "replace"])
def test_no_space_left_while_writing(table, tmp_path, monkeypatch, call):
    kept = build(table.subset(range(3)), tmp_path)
    real, calls = getattr(os, call), []

    def full(*args, **kwargs):
        calls.append(args)
        if call != "replace" or "state" in str(args[1]):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*args, **kwargs)

    with monkeypatch.context() as m:
        m.setattr(os, call, full)
        with pytest.raises(CacheError, match="No space left on device.*Free some room"):
            build(table, tmp_path)
    assert calls and len(MelCache(kept.path)) == 3
    assert not list(tmp_path.rglob("*.tmp"))
    assert len(build(table, tmp_path)) == N


def test_folder_that_cannot_be_made(table, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(CacheError, match="file/cache.*cannot write"):
        build(table, tmp_path / "file/cache")


def test_cache_equals_the_plain_way_and_is_found_again(table, tmp_path, monkeypatch):
    cache = build(table, tmp_path)
    x = torch.from_numpy(soundfile.read(table.file(7), dtype="float32")[0])[None]
    assert np.abs(cache.mels[7] - log_mel(x, MEL)[0].numpy()).max() < 1e-5
    assert isinstance(cache.array, np.memmap) and cache.mels.dtype == np.float32
    half = build(table, tmp_path, dtype="float16")
    assert half.mels.dtype == np.float16 and half.path != cache.path
    fast(monkeypatch, tmp_path / "log")
    assert build(table, tmp_path).path == cache.path and not (tmp_path / "log").exists()


def test_changed_content_settings_and_labels(table, tmp_path):
    import shutil

    folder = tmp_path / "clips"
    shutil.copytree(table.root, folder)
    few = ClipTable(table.df.head(6), folder)
    first = build(few, tmp_path / "c")
    assert build(few, tmp_path / "c", fit="pad").path != first.path
    assert MelCache.build(few, MEL, 0.05, tmp_path / "c", progress=False).path != first.path
    assert MelCache.build(few, MEL.replace(n_mels=40), SECONDS, tmp_path / "c", progress=False).mels.shape[1] == 40
    shutil.copy(folder / "100.wav", folder / "000.wav")
    second = build(few, tmp_path / "c")
    assert second.path != first.path and not np.array_equal(second.mels[0], first.mels[0])
    relabelled = ClipTable(few.df.assign(label="z"), folder)
    third = build(relabelled, tmp_path / "c")
    assert third.path == second.path and third.labels == ["z"]


def test_another_config_is_refused(table, tmp_path):
    cache = build(table.subset(range(8)), tmp_path)
    other = MEL.replace(n_mels=64, f_max=7000.0)
    for use in (lambda: MelCache(cache.path, other), lambda: mel_dls(cache, other)):
        with pytest.raises(MelMismatch, match="n_mels is 64 here and 80 there.*|f_max"):
            use()
    with pytest.raises(CacheError, match="WaveCache"):
        waves = WaveCache.build(table.subset(range(8)), 22050, SECONDS, tmp_path, progress=False)
        MelCache(waves.path)
    with pytest.raises(CacheError, match="MelCache"):
        WaveCache(cache.path)


def test_broken_cache_says_so(table, tmp_path):
    cache = build(table.subset(range(8)), tmp_path)
    array = cache.path / "array.npy"
    array.write_bytes(array.read_bytes()[:5000])
    with pytest.raises(CacheError, match="not a finished cache.*build it again"):
        MelCache(cache.path)
    with pytest.raises(CacheError, match="not a finished cache"):
        MelCache(tmp_path / "none")


def test_bad_files_are_left_out_with_reasons(table, tmp_path):
    (tmp_path / "text.wav").write_text("no audio"), (tmp_path / "empty.wav").touch()
    soundfile.write(tmp_path / "silent.wav", np.zeros(3000), 22050)
    soundfile.write(tmp_path / "nan.wav", np.full(3000, np.nan), 22050, subtype="FLOAT")
    soundfile.write(tmp_path / "zero.wav", np.zeros(0), 22050)
    soundfile.write(tmp_path / "surround.wav", np.random.default_rng(0).uniform(-0.5, 0.5, (9600, 6)), 96000)
    soundfile.write(tmp_path / "eight.wav", np.random.default_rng(1).uniform(-0.5, 0.5, 3000), 22050, subtype="PCM_U8")
    names = ["text", "empty", "silent", "nan", "zero", "gone", "surround", "eight"]
    mixed = ClipTable(dict(path=[f"{n}.wav" for n in names], label="x"), tmp_path)
    with pytest.warns(UserWarning, match="6 of 8 clips left out"):
        cache = build(mixed, tmp_path / "c")
    assert [os.path.basename(p) for p in cache.index.df.path] == ["surround.wav", "eight.wav"]
    assert [os.path.basename(p) for p, _ in cache.skipped] == [f"{n}.wav" for n in names[:6]]
    assert all(name in reason for name, (_, reason) in zip(names, cache.skipped))
    assert len(cache.mels) == 2 and np.isfinite(cache.mels).all()
    with pytest.raises(CacheError, match="text.wav"):
        build(mixed, tmp_path / "d", strict=True)
    with pytest.raises(CacheError, match="no usable clip among 6"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        build(mixed.subset(range(6)), tmp_path / "e")
    assert not list(tmp_path.rglob("*.part"))


def test_missing_file_that_comes_back(table, tmp_path):
    few = ClipTable(dict(path=["a.wav", "b.wav"], label="x"), tmp_path)
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).uniform(-0.5, 0.5, 3000), 22050)
    with pytest.warns(UserWarning, match="b.wav"):
        assert len(build(few, tmp_path / "c")) == 1
    soundfile.write(tmp_path / "b.wav", np.random.default_rng(1).uniform(-0.5, 0.5, 3000), 22050)
    assert len(build(few, tmp_path / "c")) == 2


def test_empty_class_folder(tmp_path):
    (tmp_path / "dog").mkdir(), (tmp_path / "cat").mkdir()
    soundfile.write(tmp_path / "dog/a.wav", np.random.default_rng(0).uniform(-0.5, 0.5, 3000), 22050)
    with pytest.warns(UserWarning, match="cat: class folder holds no audio. Add clips or remove"):
        assert open_dataset(tmp_path).labels == ["dog"]
    (tmp_path / "dog/a.wav").unlink()
    with pytest.raises(TableError, match="no clips found"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        open_dataset(tmp_path)


def test_joblib_processes_give_the_same(table, tmp_path):
    few = table.subset(range(4))
    with sound_data.joblib_workers("loky", n_jobs=2):
        processes = MelCache.build(few, MEL, SECONDS, tmp_path / "a", n_jobs=2, progress=False)
    assert np.array_equal(processes.mels, build(few, tmp_path / "b").mels)

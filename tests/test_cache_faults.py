"The feature cache under kill, two writers, full disk, bad files and other configurations"
import zlib
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

from foleybook.core import feature_cache
from foleybook.audio_features import MelConfig, MelMismatch, log_mel
from foleybook.core.data_sets import open_dataset
from foleybook.core.clip_tables import ClipTable
from foleybook.core.files import TableError
from foleybook.core.feature_cache import CacheError, MelCache, WaveCache
from foleybook.train.loaders import mel_dls

pytestmark = pytest.mark.slow

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

    feature_cache._Feature.__call__ = feature
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

    monkeypatch.setattr(feature_cache._Feature, "__call__", feature)


def journal(folder):
    "Lines of the one journal below `folder`"
    files = list(folder.glob("*/rows.jsonl"))
    return [line for f in files for line in f.read_text().splitlines()]


@pytest.mark.parametrize("after", [64, 130])
def test_kill_in_the_middle_keeps_the_work(table, tmp_path, monkeypatch, after):
    child = start(table, tmp_path / "c", tmp_path / "log", 0.01)
    deadline = time.time() + 60
    while len(journal(tmp_path / "c")) < after and time.time() < deadline:
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    done = len(journal(tmp_path / "c"))
    assert after <= done < N and not list((tmp_path / "c").rglob("set.json"))
    (kept,) = (tmp_path / "c").glob("*/rows.jsonl")
    with open(kept, "a") as f:
        f.write('["half a li')  # as a kill within a write leaves it
    fast(monkeypatch, tmp_path / "log2")
    cache = build(table, tmp_path / "c", n_jobs=1)
    assert len((tmp_path / "log2").read_text().split()) == N - done  # only what was missing
    assert cache.mels[:, 0, 0].tolist() == list(range(N)) and len(journal(tmp_path / "c")) == N
    assert (cache.path.parent / "rows.bin").stat().st_size == N * cache.feature.size
    whole = build(table, tmp_path / "d", n_jobs=1)
    assert np.array_equal(cache.mels, whole.mels) and cache.digest == whole.digest


def test_two_writers_share_the_work(table, tmp_path):
    children = [start(table, tmp_path / "c", tmp_path / "log", 0.002) for _ in range(2)]
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0, 0]
    assert len((tmp_path / "log").read_text().split()) == N
    (path,) = (p.parent for p in (tmp_path / "c").rglob("set.json"))
    assert MelCache(path).mels[:, 0, 0].tolist() == list(range(N))


def test_two_sets_of_one_front_end_at_once(table, tmp_path):
    halves = [table.subset(range(0, 120)), table.subset(range(80, N))]
    children = [start(half, tmp_path / "c", tmp_path / "log", 0.002) for half in halves]
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0, 0]
    assert sorted((tmp_path / "log").read_text().split()) == [f"{i:03d}.wav" for i in range(N)]  # none twice
    first = {MelCache(p.parent).mels[:, 0, 0].tolist()[0] for p in (tmp_path / "c").rglob("set.json")}
    assert first == {0.0, 80.0}


def _limited(table, folder, out):
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    feature_cache._Feature.__call__ = lambda self, file, start, seconds: value(file)
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
    assert np.isfinite(np.array(MelCache(kept.path).mels)).all()
    assert (kept.path.parent / "rows.bin").stat().st_size == 5 * kept.feature.size  # the room is given back
    assert len(build(table, tmp_path)) == N  # room again: works


@pytest.mark.parametrize("call", ["posix_fallocate", "fsync", "replace"])
def test_no_space_left_while_writing(table, tmp_path, monkeypatch, call):
    kept = build(table.subset(range(3)), tmp_path)
    real, calls = getattr(os, call), []

    def full(*args, **kwargs):
        calls.append(args)
        if call != "replace" or "rows" in str(args[1]):
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
    assert isinstance(cache.memory, np.memmap) and cache.mels.dtype == np.float32
    assert cache.mels.shape == (N, 80, cache.mels[0].shape[1]) and cache.mels[[3, 7], 2, :4].shape == (2, 4)
    assert np.array_equal(cache.mels[..., 0], np.array(cache.mels)[..., 0])
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


@pytest.mark.parametrize("how", ["written", "replaced"])
def test_content_of_the_same_size_and_time_is_noticed(table, tmp_path, how):
    file = table.file(0)
    was, before = file.stat(), MelCache.build(table, MEL, SECONDS, tmp_path / "cache", n_jobs=1, progress=False)
    x, rate = soundfile.read(file)
    new = file if how == "written" else file.with_name("new")
    soundfile.write(new, x[::-1], rate, format="WAV")
    os.replace(new, file)
    os.utime(file, ns=(was.st_atime_ns, was.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (was.st_size, was.st_mtime_ns)
    after = MelCache.build(table, MEL, SECONDS, tmp_path / "cache", n_jobs=1, progress=False)
    fresh = MelCache.build(table, MEL, SECONDS, tmp_path / "fresh", n_jobs=1, progress=False)
    assert after.digest != before.digest and np.array_equal(after.mels[0], fresh.mels[0])


@pytest.mark.parametrize("column", ["label", "split", "fold", "source"])
def test_corrected_tables_have_another_digest(table, tmp_path, monkeypatch, column):
    "Labels are not part of what is computed, but of what training on a cache depends on"
    few = table.subset(range(6))
    first = build(few, tmp_path)
    fast(monkeypatch, tmp_path / "log")
    second = build(ClipTable(few.df.assign(**{column: [3] * 6 if column == "fold" else "z"}), few.root), tmp_path)
    assert not (tmp_path / "log").exists() and np.array_equal(first.mels, second.mels)
    assert second.digest != first.digest and second.index.df[column].nunique() == 1
    assert MelCache(first.path).labels == ["a", "b"] and build(few, tmp_path).digest == first.digest
    credited = ClipTable(few.df.assign(licence="CC0"), few.root)
    assert build(credited, tmp_path).digest == first.digest  # nothing that is learnt from


def test_one_clip_more_is_one_clip_computed(table, tmp_path, monkeypatch):
    first = build(table.subset(range(N - 1)), tmp_path / "c")
    fast(monkeypatch, tmp_path / "log")
    second = build(table, tmp_path / "c")
    assert (tmp_path / "log").read_text().split() == [f"{N - 1:03d}.wav"]
    assert np.array_equal(second.mels[: N - 1], first.mels) and second.mels[N - 1, 0, 0] == N - 1
    build(table.subset(range(N - 1, -1, -1)), tmp_path / "c")  # another order, nothing new
    assert len((tmp_path / "log").read_text().split()) == 1


def test_same_sound_under_two_names(table, tmp_path):
    import shutil

    for name in ("x.wav", "y.wav"):
        shutil.copy(table.file(3), tmp_path / name)
    cache = build(ClipTable(dict(path=["x.wav", "y.wav"], label=["x", "y"]), tmp_path), tmp_path / "c")
    assert cache.places[0, 0] == cache.places[1, 0] and cache.labels == ["x", "y"] and len(cache) == 2


def test_moved_clips_are_found_again(table, tmp_path):
    import shutil

    shutil.copytree(table.root, tmp_path / "a")
    first = build(ClipTable(table.df.head(5), tmp_path / "a"), tmp_path / "c")
    (tmp_path / "a").rename(tmp_path / "b")
    second = build(ClipTable(table.df.head(5), tmp_path / "b"), tmp_path / "c")
    assert second.digest == first.digest and second.index.file(0).resolve() == (tmp_path / "b/000.wav").resolve()


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


def _zero(data, size):
    with open(data, "r+b") as f:
        f.seek(3 * size)
        f.write(bytes(2 * size))


def _cut(data, size):
    os.truncate(data, 5 * size - 7)


@pytest.mark.parametrize("harm,rows", [(_zero, 2), (_cut, 4)])
def test_damaged_rows_are_noticed_and_computed_again(table, tmp_path, harm, rows):
    cache = build(table.subset(range(8)), tmp_path)
    whole = np.array(cache.mels)
    harm(cache.path.parent / "rows.bin", cache.feature.size)
    with pytest.raises(CacheError, match=f"{rows} of 8 rows are not what was written.*Build it again"):
        MelCache(cache.path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again = build(table.subset(range(8)), tmp_path)
    assert np.array_equal(again.mels, whole) and np.array_equal(MelCache(cache.path).mels, whole)


def test_large_caches_are_sampled(table, tmp_path, monkeypatch):
    cache = build(table, tmp_path)
    monkeypatch.setattr(feature_cache, "CHECKED", 20 * cache.feature.size)
    seen = []
    real = zlib.crc32
    monkeypatch.setattr(zlib, "crc32", lambda x: seen.append(1) or real(x))
    MelCache(cache.path)
    assert len(seen) == 20
    (cache.path.parent / "rows.bin").write_bytes(bytes(N * cache.feature.size))
    with pytest.raises(CacheError, match=f"{N} of {N} rows"):
        MelCache(cache.path)


def test_broken_cache_says_so(table, tmp_path):
    cache = build(table.subset(range(8)), tmp_path)
    for name in ("set.json", "rows.npy", "clips.csv"):
        held = (cache.path / name).read_bytes()
        (cache.path / name).write_bytes(held[:30])
        with pytest.raises(CacheError, match="not a finished cache.*[Bb]uild it again"):
            MelCache(cache.path)
        assert len(build(table.subset(range(8)), tmp_path)) == 8  # mended
    (cache.path.parent / "rows.bin").unlink()
    with pytest.raises(CacheError, match="not a finished cache"):
        MelCache(cache.path)
    assert np.array_equal(build(table.subset(range(8)), tmp_path).mels, build(table.subset(range(8)), tmp_path / "b").mels)
    with pytest.raises(CacheError, match="not a finished cache"):
        MelCache(tmp_path / "none")


@pytest.mark.parametrize("junk", ["", "[]", "5", '["x"]', "{", '["a", 1]'])
def test_damaged_notes_are_computed_again(table, tmp_path, junk):
    cache = build(table.subset(range(5)), tmp_path)
    notes = cache.path.parent / "rows.jsonl"
    lines = notes.read_text().splitlines()
    notes.write_text("\n".join([*lines[:2], junk, *lines[3:]]) + "\n")
    (tmp_path / "hashes.json").write_text(junk)
    assert np.array_equal(build(table.subset(range(5)), tmp_path).mels, cache.mels)


def test_bad_clips_are_remembered(table, tmp_path, monkeypatch):
    (tmp_path / "text.wav").write_text("no audio")
    soundfile.write(tmp_path / "good.wav", np.random.default_rng(0).uniform(-0.5, 0.5, 3000), 22050)
    mixed = ClipTable(dict(path=["text.wav", "good.wav"], label="x"), tmp_path)
    with pytest.warns(UserWarning, match="1 of 2 clips left out"):
        first = build(mixed, tmp_path / "c")
    fast(monkeypatch, tmp_path / "log")
    with pytest.warns(UserWarning, match="1 of 2 clips left out"):
        second = build(mixed, tmp_path / "c")
    assert not (tmp_path / "log").exists() and second.skipped == first.skipped
    with pytest.raises(CacheError, match="text.wav"):
        build(mixed, tmp_path / "c", strict=True)
    (tmp_path / "text.wav").rename(tmp_path / "moved.wav")
    with pytest.warns(UserWarning, match="moved.wav"):
        build(ClipTable(dict(path=["moved.wav", "good.wav"], label="x"), tmp_path), tmp_path / "c")


@pytest.mark.parametrize("peak", [1e30, 32768.0])
def test_samples_far_beyond_full_scale_are_a_fault(table, tmp_path, peak):
    soundfile.write(tmp_path / "huge.wav", np.full(3000, peak), 22050, subtype="FLOAT")
    soundfile.write(tmp_path / "over.wav", np.full(3000, 1.5), 22050, subtype="FLOAT")  # plain clipping: kept
    mixed = ClipTable(dict(path=["huge.wav", "over.wav"], label="x"), tmp_path)
    with pytest.warns(UserWarning, match="huge.wav: holds samples up to"):
        assert mixed.check().df.path.tolist() == ["over.wav"]
    with pytest.warns(UserWarning, match="huge.wav: holds samples up to"):
        cache = build(mixed, tmp_path / "c")
    assert len(cache) == 1 and np.isfinite(np.array(cache.mels)).all()


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
    assert [p for p, _ in cache.skipped] == [f"{n}.wav" for n in names[:6]]
    assert all(name in reason for name, (_, reason) in zip(names, cache.skipped))
    assert len(cache.mels) == 2 and np.isfinite(np.array(cache.mels)).all()
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
    with feature_cache.joblib_workers("loky", n_jobs=2):
        processes = MelCache.build(few, MEL, SECONDS, tmp_path / "a", n_jobs=2, progress=False)
    assert np.array_equal(processes.mels, build(few, tmp_path / "b").mels)

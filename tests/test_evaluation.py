"""The judge: properties of the measures, bad input, the cache, and damages that must lower a score."""
import json
import os
import pickle
import subprocess
import sys
import warnings
from contextlib import nullcontext
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
import torch
from foleybook import evaluation as ev
from foleybook.judge import challenge_scores as challenge, clip_measures as clipwise
from foleybook.judge import challenge_scores, clips as heard_clips, mel_classifiers, second_listener
from foleybook.judge import embedders as em, evaluator as judging, leaderboard as boards, reports
from foleybook.judge.pages import gallery_page
from foleybook.core.sounds import Sounds
from foleybook.core.sound_files import write_audio
from foleybook.apps.cli import leaderboard, main
from foleybook.core.data_sets import open_dataset, read_folder
from foleybook.core.files import CheckpointError
from foleybook.core.generator import Conditions, Generator
from foleybook.core.clip_tables import ClipTable
from foleybook.core.files import TableError
from foleybook.sound_data import procedural_sound
from foleybook.train.recipes import find_recipe
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

RATE = 16000


def cloud(n, d, seed=0, spread=1.0, shift=0.0):
    g = torch.Generator().manual_seed(seed)
    return spread * torch.randn(n, d, generator=g) @ torch.randn(d, d, generator=g) + shift


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    "Three classes of procedural sounds, twice"
    root = tmp_path_factory.mktemp("clips")
    for name, seed in (("real", 0), ("held", 100)):
        for kind in ("rain", "keyboard", "dog_bark"):
            for i in range(6):
                x = procedural_sound(kind, 1.2, RATE, seed=seed + i)
                write_audio(root / name / kind / f"{i}.wav", 0.8 * x / x.abs().max(), RATE)
    return root


def judge(generated, reference, **options):
    options = dict(dict(embedder="log-mel", cache=False, times=0, progress=False), **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return judging.evaluate(generated, reference, **options)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 40), st.integers(2, 40), st.integers(1, 30), st.integers(0, 10**6))
def test_frechet_any_rank(n, m, d, seed):
    x, y = cloud(n, d, seed), cloud(m, d, seed + 1, 2.0, 1.0)
    a, b = ev.gaussian(x), ev.gaussian(y)
    got = ev.frechet_distance(x, y)
    scale = float(a.sigma.trace() + b.sigma.trace() + (a.mu - b.mu).square().sum())
    assert abs(got - ev.frechet_distance(y, x)) < 1e-9 * scale
    assert ev.frechet_distance(x, x) < 1e-6 * scale
    eps = 1e-12 * scale * torch.eye(d, dtype=torch.float64)
    root = linalg.sqrtm(((a.sigma + eps) @ (b.sigma + eps)).numpy())
    assert abs(got - (scale - 2 * np.trace(root).real)) < 2e-4 * scale
    none = [g._replace(root=None) for g in (a, b)]
    assert abs(got - ev.frechet_distance(*none)) < 1e-5 * scale


def test_kernel_distance_is_unbiased():
    values = [ev.kernel_distance(cloud(20, 8, 7)[:0].new_tensor(np.random.RandomState(s).randn(20, 8)),
                                 np.random.RandomState(1000 + s).randn(30, 8)) for s in range(200)]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(len(values))


@pytest.mark.parametrize("n", [50, 200, 800])
def test_interval_is_as_wide_as_theory_says(n):
    "The mean of n normal numbers lies within 1.96 / sqrt(n), and about as often as promised"
    g = torch.Generator().manual_seed(n)
    found = []
    for _ in range(60):
        x = torch.randn(n, generator=g)
        found.append(ev.bootstrap(lambda rows: x[rows].mean(), n, 200))
    width = np.mean([i.high - i.low for i in found]) * np.sqrt(n) / (2 * 1.96)
    assert 0.9 < width < 1.1
    assert np.mean([i.low <= 0 <= i.high for i in found]) > 0.85


def test_interval_of_a_biased_measure_shrinks_with_the_clips():
    x, y, widths = cloud(800, 8, 1), cloud(400, 8, 2), []
    for n in (50, 200, 800):
        i = ev.bootstrap(lambda rows: ev.frechet_distance(x[:n][rows], y), n, 60)
        assert i.low <= i.value <= i.high
        widths.append(i.high - i.low)
    assert widths[0] > 1.4 * widths[1] and widths[1] > 1.4 * widths[2]


def sets(clips, windows, d, seed):
    "Embeddings of some clips, each of several windows"
    frames = cloud(clips * windows, d, seed)
    return heard_clips.Embeddings(frames, torch.full((clips,), windows), np.array(["a"] * clips), [""] * clips, list(range(clips)),
                         pd.DataFrame(index=range(clips)), [""] * clips, [])


@pytest.mark.parametrize("clips,windows,d", [(12, 3, 8), (9, 2, 40), (40, 1, 6)])
def test_what_is_resampled_is_what_is_published(clips, windows, d):
    "The fast forms that the bootstrap draws with equal the public functions, on all clips and on a draw"
    emb, ref = sets(clips, windows, d, 1), sets(clips + 3, windows, d, 2)
    fast = judging._cloud_measures(emb, ref, 4)
    draw = torch.randperm(clips, generator=torch.Generator().manual_seed(0))[: clips - 3]
    for i in (torch.arange(clips), draw):
        own = emb.subset(i)
        plain = dict(zip(("density", "coverage"), ev.density_coverage(own.clips, ref.clips, 4)))
        plain["frechet"] = ev.frechet_distance(own.frames, ref.frames)
        plain["kernel"] = ev.kernel_distance(own.clips, ref.clips)
        plain["diversity"] = ev.diversity(own.clips) / ev.diversity(ref.clips)
        for name, value in plain.items():
            assert abs(fast[name](i) - value) < 1e-4 * max(1, abs(value)), name


def test_a_clip_drawn_twice_does_not_pair_with_itself():
    emb, ref = sets(10, 1, 4, 1), sets(12, 1, 4, 2)
    fast = judging._cloud_measures(emb, ref, 4)
    i = torch.tensor([0, 0, 1, 2, 5, 5, 5, 7])
    x, y = emb.clips[i].double(), ref.clips.double()
    kxx, kyy, kxy = ev.kernels(x, y)
    different = i[:, None] != i
    off = ~torch.eye(len(y), dtype=torch.bool)
    plain = 100 * float(kxx[different].mean() + kyy[off].mean() - 2 * kxy.mean())
    assert abs(fast["kernel"](i) - plain) < 1e-9
    spread = torch.cdist(x, x)[different].mean() / torch.pdist(y).mean()
    assert abs(fast["diversity"](i) - float(spread)) < 1e-6


def test_extrapolation_of_clips_and_of_vectors_is_one():
    "One vector a clip: drawing clips is drawing vectors"
    emb, ref = sets(60, 1, 6, 1), cloud(90, 6, 2)
    of_clips, of_vectors = (ev.frechet_infinity(x, ref, 8, draws=4, seed=3) for x in (emb, emb.frames))
    assert np.allclose(of_clips.values, of_vectors.values, rtol=1e-6) and abs(of_clips.value - of_vectors.value) < 1e-5
    assert of_clips.low <= of_clips.value <= of_clips.high
    line = np.polyfit(1 / np.array(of_vectors.sizes), of_vectors.values, 1)
    assert np.allclose([of_vectors.slope, of_vectors.value], line)
    with pytest.raises(ValueError, match="too few"):
        ev.frechet_infinity(emb.frames[:2], ref)


def test_extrapolation_takes_the_bias_away():
    "Two samples of one cloud: the plain distance of few clips is far from 0, its extrapolation is near it"
    g = torch.Generator().manual_seed(5)
    x, y = (torch.randn(n, 16, generator=g) for n in (120, 4000))
    line = ev.frechet_infinity(x, y, draws=10)
    assert line.values[-1] > 0.5 and abs(line.value) < 0.3 * line.values[-1]


def test_the_stft_distance_is_the_loss_of_the_vocoders():
    from foleybook.vocoders import multi_resolution_stft_loss

    g = torch.Generator().manual_seed(0)
    x = 0.2 * torch.randn(1, 20000, generator=g)
    y = x + 0.02 * torch.randn(1, 20000, generator=g)
    got = clipwise.reconstruction_distances(y, x, RATE)
    assert abs(got.stft - float(multi_resolution_stft_loss(y, x))) < 1e-6
    naive = []
    for n in (512, 1024, 2048):
        a, b = (torch.stft(v[0], n, n // 4, window=torch.hann_window(n), return_complex=True).abs() for v in (y, x))
        naive.append((a - b).norm() / b.norm() + (a.log() - b.log()).abs().mean())
    assert abs(got.stft - float(sum(naive) / 3)) < 1e-3 * got.stft
    decibel = (20 * (a / b).log10()).square().mean(0).sqrt().mean()
    assert abs(got.log_spectral - float(decibel)) < 1e-2 * got.log_spectral


def test_same_as_torch_fidelity():
    pytest.importorskip("torch_fidelity")
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_isc import isc_features_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric

    x, y = cloud(120, 10, 1), cloud(90, 10, 2, 1.5, 0.5)
    stats = [fid_features_to_statistics(a) for a in (x, y)]
    fid = fid_statistics_to_metric(*stats, verbose=False)["frechet_inception_distance"]
    assert abs(ev.frechet_distance(x, y) - fid) < 1e-5 * fid
    kid = kid_features_to_metric(x, y, kid_subsets=10, kid_subset_size=40, rng_seed=3, verbose=False)
    assert np.allclose(challenge.kernel_inception_distance(x, y, 10, 40, seed=3), list(kid.values()), rtol=1e-6)
    isc = isc_features_to_metric(x, splits=5, shuffle=True, rng_seed=3)
    assert np.allclose(challenge.inception_score(x, 5, seed=3), list(isc.values()), rtol=1e-6)


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("was_here",)


def test_pickle_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "gt_embedding.pkl"
    file.write_bytes(pickle.dumps({"mu": Harmful()}))
    with pytest.raises(ValueError, match="gt_embedding.pkl"):
        challenge_scores.read_gt_embedding(file)
    file.write_bytes(b"\x80\x04 no pickle")
    with pytest.raises(ValueError, match="not a pickle"):
        challenge_scores.read_gt_embedding(file)
    assert not (tmp_path / "was_here").exists()


def test_damages_lower_the_score(toy):
    clips = heard_clips.Clips(toy / "held")
    audio = torch.stack([clips.read(i)[0] for i in range(len(clips))])
    level = audio.std(-1, keepdim=True)
    noise = torch.randn(audio.shape, generator=torch.Generator().manual_seed(0))
    scores = {}
    for db in (None, 20, 10, 0):
        x = audio if db is None else audio + level * 10 ** (-db / 20) * noise
        x = x / x.abs().amax(-1, keepdim=True).clamp_min(1)
        scores[db] = judge(Sounds(x, RATE, labels=clips.labels), toy / "real")
    frechet = [scores[db]["frechet"].value for db in (None, 20, 10, 0)]
    assert frechet == sorted(frechet) and frechet[1] > 1.05 * frechet[0]
    swapped = judge(Sounds(audio, RATE, labels=clips.labels[6:] + clips.labels[:6]), toy / "real")
    assert scores[None]["accuracy"].value > 0.8 and swapped["accuracy"].value < 0.3
    own = sorted(set(clips.labels))
    real, held = (heard_clips.embed_clips(toy / n, "log-mel", False) for n in ("real", "held"))
    for a in own:
        d = {b: ev.frechet_distance(held.subset(held.labels == a).frames, real.subset(real.labels == b).frames) for b in own}
        assert min(d, key=d.get) == a


def test_copies_are_found(toy):
    result = judge(toy / "real", toy / "held", train=toy / "real")
    assert result["copies"].value == 1 and result.nearest.distance.max() < 1e-4
    assert judge(toy / "held", toy / "real", train=toy / "real")["copies"].value < 0.3


def test_cache_goes_by_content(toy, tmp_path, monkeypatch):
    first = heard_clips.embed_clips(toy / "held", "log-mel", tmp_path / "cache", also=clipwise.sound_faults)
    kept = sorted((tmp_path / "cache").rglob("*.npz"))
    assert len(kept) == 2  # one file of vectors and one of facts, whatever the number of clips
    for i, f in enumerate(sorted((toy / "held").rglob("*.wav"))):
        (tmp_path / "moved" / f.parent.name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "moved" / f.parent.name / f"{i:02d}.wav").write_bytes(f.read_bytes())
    calls = []
    embed = em.Embedder.embed
    monkeypatch.setattr(em.Embedder, "embed", lambda self, *a: calls.append(1) or embed(self, *a))
    again = lambda: heard_clips.embed_clips(tmp_path / "moved", "log-mel", tmp_path / "cache", also=clipwise.sound_faults)  # noqa: E731
    assert torch.equal(again().frames, first.frames) and again().hash == first.hash and not calls
    for file in kept:  # cut by a full disk, say: computed again, and whole afterwards
        file.write_bytes(file.read_bytes()[:-40])
        found = again()
        assert torch.equal(found.frames, first.frames) and found.facts.equals(first.facts) and sum(calls) in (0, len(first))
    assert len(calls) == len(first)
    write_audio(tmp_path / "moved/rain/99.wav", torch.ones(1, 4000) * 0.1, RATE)
    assert heard_clips.embed_clips(tmp_path / "moved", "log-mel", tmp_path / "cache").hash != first.hash
    assert not list((tmp_path / "cache").rglob("*.tmp"))


def test_clips_that_a_set_holds_out_count_as_unheard(toy, tmp_path):
    "A model trained on a set with a split has not learnt from the rows to validate and test on"
    rows = read_folder(toy / "real").df[["path", "label"]].assign(split="train")
    rows.loc[rows.index[::3], "split"], rows.loc[rows.index[1::3], "split"] = "test", "valid"
    rows["path"] = [str(toy / "real" / f) for f in rows.path]
    rows.to_csv(tmp_path / "clips.csv", index=False)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/run.json").write_text(json.dumps(dict(data=str(tmp_path), hold_out=[])))
    seen, _ = judging.training_clips(tmp_path / "run")
    assert len(seen) == (rows.split == "train").sum() and set(seen.df.split) == {"train"}
    rows.assign(split="").to_csv(tmp_path / "clips.csv", index=False)
    assert len(judging.training_clips(tmp_path / "run")[0]) == len(rows)


@pytest.mark.parametrize("ends", [KeyboardInterrupt, None])
def test_what_was_heard_before_the_end_is_not_heard_again(toy, tmp_path, monkeypatch, ends):
    "A stopped run keeps all it has heard, a killed one all files that were full; two writers keep the clips of both"
    monkeypatch.setattr(heard_clips._Shelf, "many", 4)
    calls, embed, save = [], em.Embedder.embed, heard_clips._Shelf.save

    def tenth(self, *a):
        calls.append(1)
        if len(calls) == 10: raise ends() if ends else SystemExit
        return embed(self, *a)

    monkeypatch.setattr(em.Embedder, "embed", tenth)
    if ends is None: monkeypatch.setattr(heard_clips._Shelf, "save", lambda self: save(self) if len(self.fresh) == 4 else None)
    with pytest.raises(ends or SystemExit): heard_clips.embed_clips(toy / "held", "log-mel", tmp_path)
    monkeypatch.setattr(heard_clips._Shelf, "save", save)
    found = heard_clips.embed_clips(toy / "held", "log-mel", tmp_path)
    assert len(calls) == 10 + len(found) - (9 if ends else 8)
    assert torch.equal(found.frames, heard_clips.embed_clips(toy / "held", "log-mel", False).frames)
    one, two = heard_clips._Shelf(tmp_path / "both"), heard_clips._Shelf(tmp_path / "both")
    for shelf, names in ((one, "ab"), (two, "bc")):
        for name in names: shelf.add(name, np.full((2, 3), ord(name)))
    one.save(), two.save()
    assert {k: v.shape for k, v in one.find("abcd").items()} == {k: (2, 3) for k in "abc"}


def test_workers_give_the_same(toy):
    one, two = (heard_clips.embed_clips(toy / "held", "log-mel", False, n_jobs=j) for j in (1, 2))
    assert torch.allclose(one.frames, two.frames, atol=1e-5) and one.names == two.names


def test_bad_input(toy, tmp_path):
    with pytest.raises(TableError, match="no such folder"):
        judge(tmp_path / "nowhere", toy / "real")
    (tmp_path / "empty").mkdir()
    with pytest.raises(TableError, match="no clips"):
        judge(tmp_path / "empty", toy / "real")
    mixed = tmp_path / "mixed"
    write_audio(mixed / "rain/stereo.wav", 0.1 * torch.randn(2, 44100), 44100)
    write_audio(mixed / "rain/mono.wav", 0.1 * torch.randn(1, RATE), RATE)
    sf.write(mixed / "rain/nan.wav", np.full(RATE, np.nan, np.float32), RATE, subtype="FLOAT")
    (mixed / "rain/cut.wav").write_bytes((mixed / "rain/mono.wav").read_bytes()[:100])
    (mixed / "rain/none.wav").touch()
    with pytest.warns(UserWarning):
        result = judging.evaluate(mixed, toy / "real", embedder="log-mel", cache=False, times=0)
    reports.save_report(result, tmp_path / "report")
    notes = " ".join(result.record["notes"])
    assert result.record["sets"]["generated"]["clips"] == 2
    assert result.record["sets"]["generated"]["rates"] == [RATE, 44100]
    for text in ("mixed sample rates", "mono and stereo", "3 files could not be used", "vectors for 128 dimensions"):
        assert text in notes
    with pytest.raises(TableError, match=r"3 bad clips"):
        judge(mixed, toy / "real", strict=True)
    page = (tmp_path / "report/report.html").read_text()
    assert "http" not in page.replace("http-equiv", "") and "<audio" in page
    saved = json.loads((tmp_path / "report/evaluation.json").read_text())
    assert saved["compared_at"] == RATE and saved["sets"]["reference"]["hash"]
    assert set(pd.read_csv(tmp_path / "report/scores.csv").measure) >= {"frechet", "kernel", "loudness", "clicks"}


def test_pairs_are_never_mixed(toy, tmp_path):
    same = judge(toy / "held", toy / "held", paired=True)
    # at 16 kHz nothing lies above 8 kHz
    assert set(same.table.measure) == {*clipwise.Reconstruction._fields, "mkl"} - {"stft_high", "top"} and same["mel"].value == 0
    assert same["pre_echo"].value == same["rhythm"].value == 0
    assert same.record["mode"] == "paired"
    assert not {"mel", "stft", "mkl"} & set(judge(toy / "held", toy / "real").table.measure)
    (tmp_path / "g/rain").mkdir(parents=True)
    (tmp_path / "g/rain/surplus.wav").write_bytes((toy / "held/rain/0.wav").read_bytes())
    with pytest.raises(ValueError, match="1 of 1 generated clips have no reference"):
        judge(tmp_path / "g", toy / "held", paired=True)


def test_gain_does_not_matter(toy):
    clips = heard_clips.Clips(toy / "held")
    audio = torch.stack([clips.read(i)[0] for i in range(len(clips))])
    loud, soft = (judge(Sounds(g * audio, RATE, labels=clips.labels), toy / "real") for g in (1, 0.1))
    assert abs(loud["frechet"].value - soft["frechet"].value) < 1e-3 * loud["frechet"].value
    assert abs(loud["loudness"].value - soft["loudness"].value - 20) < 0.2


def test_faults():
    t = torch.arange(RATE) / RATE
    clean = 0.3 * torch.sin(2 * torch.pi * 200 * t) * torch.sin(torch.pi * t)
    assert clipwise.sound_faults(clean, RATE).clicks == 0
    spike = clean.clone()
    spike[5000] += 0.5
    spike[9000:] *= -1
    assert clipwise.sound_faults(spike, RATE).clicks >= 1
    assert clipwise.sound_faults(torch.zeros(RATE), RATE)[:2] == (-70.0, 1.0)
    assert clipwise.sound_faults((10 * clean).clamp(-1, 1), RATE).clipped > 10


def test_classifier_recipe_and_folder_embedder(toy, tmp_path):
    model = mel_classifiers.ClassifierRecipe.preset("classifier-test").override(dict(steps=2, epoch_steps=2)).train(
        toy / "real", tmp_path / "judge", progress=False)
    assert model.config.labels == ("dog_bark", "keyboard", "rain")
    embedder = em.find_embedder(tmp_path / "judge")
    assert heard_clips.embed_clips(toy / "held", embedder, False).frames.shape[1] == model.config.embedding
    with torch.no_grad():
        next(model.parameters()).add_(1)
    assert em.MelEmbedder(model).hash != embedder.hash


def test_aisfx_like_the_published_sanity_numbers():
    root = Path(os.environ.get("FOLEYBOOK_DATA", "data")) / "esc10"
    try:
        embedder = em.Aisfx()
    except FileNotFoundError:
        pytest.skip("aisfx is not installed")
    if not root.exists():
        pytest.skip("ESC-10 is not on disk")
    rows = open_dataset(root)
    emb = heard_clips.embed_clips(rows.subset(np.flatnonzero(rows.df.fold == 5)[::8]), embedder)
    assert emb.frames.shape[1] == 512 and set(emb.counts.tolist()) <= {2, 3, 4} and emb.frames.isfinite().all()


def fresh(code):
    "Standard output of Python code in a process of its own"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("module", ["judge.embedders", "evaluation", "judge.reports"])
def test_importing_adds_nothing_heavy_to_what_training_needs(module):
    "No torchvision, no plotting and no template engine, and of scikit-learn no more than fastai itself brings"
    print_it = f"""
import sys, foleybook.training, foleybook.vocoders
before = set(sys.modules)
import foleybook.{module}
heavy = ('torchvision', 'sklearn', 'scipy', 'librosa', 'jinja2', 'IPython')
print(sorted(m for m in set(sys.modules) - before if m.split('.')[0] in heavy))
print('torchvision' in sys.modules)
"""
    assert fresh(print_it) == "[]\nFalse"


class OneDevice(TorchDispatchMode):
    "Raises where tensors of two devices meet, but for numbers, copies and indices"

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = {t.device for t in tree_leaves((args, kwargs or {})) if torch.is_tensor(t) and t.ndim}
        if len(found) > 1 and not any(word in str(func) for word in ("copy", "index")):
            raise RuntimeError(f"{func}: tensors on two devices, {found}")
        return func(*args, **kwargs or {})


@pytest.fixture
def elsewhere(monkeypatch):
    "A device that is not the CPU and is always there: its tensors have shapes, but no numbers"
    def istft(x, n_fft, window, length):
        assert x.device == window.device
        return torch.empty(len(x), length, device=x.device)

    monkeypatch.setattr(torch, "istft", istft)  # the real one looks at numbers
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: nullcontext())  # it knows only real devices
    with OneDevice():
        yield torch.device("meta")


@pytest.mark.parametrize("mix", [lambda x: x * torch.hann_window(3), lambda x: x[None] @ torch.ones(3, 2),
                                 lambda x: torch.cat([x, torch.ones(2)])], ids=["product", "matrix", "cat"])
def test_mixed_devices_are_noticed(elsewhere, mix):
    with pytest.raises(RuntimeError, match="device"):
        mix(torch.ones(3, device=elsewhere))


def test_shaped_noise_off_the_cpu(elsewhere):
    model = boards.ShapedNoise(boards.ShapedNoiseConfig(labels=("a", "b"), seconds=0.5)).to(elsewhere)
    for cond in (Conditions(label=torch.tensor([0, 1])), Conditions(shares=torch.ones(2, 2))):
        out = model._sample(cond.to(elsewhere), 2, [1, 2])
        assert out.device == elsewhere and out.shape == (2, 1, 11025)


def classifier(of):
    "An embedder around an untrained network"
    if of == "small":
        return em.MelEmbedder(mel_classifiers.MelClassifier(mel_classifiers.MelClassifierConfig(labels=("a", "b"))))
    return em.MelEmbedder(mel_classifiers.Melception(mel_classifiers.MelceptionConfig(labels=("a", "b"))))


@pytest.mark.parametrize("make", [
    pytest.param(lambda: classifier("small"), id="classifier"), pytest.param(lambda: classifier("large"), id="melception"),
    pytest.param(lambda: em.VGGish(), id="vggish"), pytest.param(lambda: em.VGGish(dcase2023=True), id="vggish dcase")])
def test_embedders_off_the_cpu(make, elsewhere, monkeypatch):
    def log_mel(x, mel):  # the real one looks at numbers
        return torch.zeros(*x.shape[:-1], mel.n_mels, mel.frames(x.shape[-1]), device=x.device)

    monkeypatch.setattr(em, "log_mel", log_mel)
    embedder = make().to(elsewhere)
    assert embedder.device == elsewhere
    assert embedder(torch.randn(50000, device=elsewhere)).device == elsewhere


def test_an_embedder_takes_the_clip_to_its_weights():
    "What is given on the CPU comes back on the CPU, and is heard where the weights are"
    heard = []

    class Spy(em.Embedder):
        def __init__(self):
            super().__init__()
            self.register_buffer("weight", torch.ones(1, device="meta"))

        def forward(self, x):
            heard.append(x.device.type)
            return torch.ones(1, 2)

    assert Spy().embed(torch.randn(2, 4000), 22050).device.type == "cpu" and heard == ["meta"]


def test_aisfx_off_the_cpu(monkeypatch, elsewhere):
    monkeypatch.setattr(em, "_aisfx_file", lambda folder: None)
    weights = {f"embedding_net.{k}": v for k, v in em._Aisfx().state_dict().items()}
    monkeypatch.setattr(em, "read_published", lambda file: [weights])
    assert em.Aisfx().to(elsewhere)(torch.randn(120000, device=elsewhere)).device == elsewhere


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_embedder_and_floor_work_on_a_gpu():
    "Embeddings are those of a CPU but for rounding; noise is drawn by place there, and the same alone as in a batch"
    torch.manual_seed(0)
    net, x = classifier("small"), 0.1 * torch.randn(1, 50000)
    here = net.embed(x, 22050)
    assert torch.allclose(here, net.to("cuda").embed(x, 22050), atol=1e-3)
    model = boards.ShapedNoise(boards.ShapedNoiseConfig(labels=("a", "b"), seconds=0.5)).to("cuda")
    both, alone = (model.sample(ask, n=len(ask), seed=seed, progress=False).audio for ask, seed in (([0, 1], 1), ([1], 2)))
    assert torch.allclose(both[1:], alone, atol=1e-5)


def test_shaped_noise_of_shares_lies_between_its_classes(toy):
    table = read_folder(toy / "real")
    model = boards.ShapedNoise(boards.ShapedNoiseConfig(labels=tuple(table.labels), seconds=1.0)).fit(table)
    pure = [model._sample(Conditions(label=torch.tensor([k])), 1, [3]) for k in range(2)]
    mixed = model._sample(Conditions(shares=torch.tensor([[1.0, 0, 0]])), 1, [3])
    assert torch.allclose(mixed, pure[0]) and not torch.allclose(mixed, pure[1], atol=1e-3)


def test_recordings_stand_beside_the_five_numbers(toy):
    "As many training recordings of each label as were generated, against the same reference"
    few = read_folder(toy / "held").subset([0, 1, 6, 7, 12, 13])
    reference = read_folder(toy / "held").subset([2, 3, 4, 5, 8, 9, 10, 11, 14, 15, 16, 17])
    result = judge(few, reference, train=toy / "real")
    beside = result.record["recordings"]
    assert beside["clips"] == 6 and "training recordings" in beside["how"]
    rows = result.summary()
    assert list(rows.index) == list(judging.SUMMARY) and (rows.better == ["higher", "lower", "lower", "lower", "lower"]).all()
    assert rows.recordings["recognised"] == f"{result.record['probe_accuracy_on_real']:.0%}"
    assert rows.recordings["copies"] == "0%" and rows.generated["distance"] == f"{result['frechet'].value:.3g}"
    alone = judge(few, reference)
    assert "half" in alone.record["recordings"]["how"] and "training set" in alone.summary().generated["copies"]
    assert all(word in str(alone) for word in judging.SUMMARY)
    again = judge(few, reference, train=toy / "real")
    assert again.record["recordings"]["scores"] == beside["scores"]


def test_one_stray_rate_does_not_dull_all(toy, tmp_path):
    "Among 21 clips, one at 8 kHz: all others keep their band, and the report says so"
    for i in range(20):
        write_audio(tmp_path / f"set/rain/{i:02d}.wav", 0.1 * torch.randn(1, RATE, generator=torch.Generator().manual_seed(i)), RATE)
    write_audio(tmp_path / "set/rain/stray.wav", 0.1 * torch.randn(1, 8000), 8000)
    result = judge(tmp_path / "set", toy / "real")
    assert result.record["compared_at"] == RATE
    assert any("1 clips below 16000 Hz" in note for note in result.record["notes"])


def test_one_low_rate_recording_among_few_dulls_nothing(toy, tmp_path):
    "Seven recordings, one at 8 kHz: the comparison keeps the band of the others and says which clip lacks it"
    for i in range(7):
        rate = 8000 if i == 3 else RATE
        write_audio(tmp_path / f"set/rain/{i}.wav", 0.1 * torch.randn(1, rate, generator=torch.Generator().manual_seed(i)), rate)
    result = judge(toy / "held", tmp_path / "set")
    assert result.record["compared_at"] == RATE
    assert any("reference: 1 clips below 16000 Hz" in note for note in result.record["notes"])


def bursts(rate, seed, seconds=2, sr=44100):
    "Decaying bursts of noise, `rate` a second, the first a little later for each seed"
    g = torch.Generator().manual_seed(seed)
    x, burst = torch.zeros(seconds * sr), torch.linspace(1, 0, 882) ** 2
    for k in range(seconds * rate):
        x[round((k + 0.2 + 0.03 * (seed % 20)) / rate * sr):][:882] += torch.randn(882, generator=g) * burst
    return x / x.abs().max()


def of_rate(rate, seeds):
    return Sounds(torch.stack([bursts(rate, s) for s in seeds])[:, None], 44100, labels=["tick"] * len(seeds))


@pytest.mark.parametrize("rate", [2, 4, 8])
def test_onsets_and_attacks_are_counted(rate):
    x = bursts(rate, 3)
    assert len(ev.attacks(x, 44100)) == 2 * rate and clipwise.clip_facts(x, 44100).onsets == rate
    assert abs(float(ev.attacks(x, 44100)[0]) - 0.29 / rate) < 0.003
    assert len(ev.attacks(torch.zeros(44100), 44100)) == 0


def test_rhythm_hears_the_rate_and_not_the_gain():
    "Ticks at another rate lie further than ticks at the same, and the rates stand beside each other"
    reference = of_rate(4, range(6))
    same, other = (judge(of_rate(r, range(10, 16)), reference, embedder="log-mel") for r in (4, 7))
    assert other["rhythm"].value > 2.5 * same["rhythm"].value
    assert (same["onsets"].value, other["onsets"].value) == (4, 7)
    assert other.record["recordings"]["scores"]["onsets"] == 4 and "7.0 onsets a second (4.0)" in str(other)
    x = bursts(4, 1)
    a, b = (ev.ModulationSpectrum().embed(g * x[None], 44100) for g in (1, 0.01))
    assert torch.allclose(a, b, atol=1e-3)


@pytest.mark.parametrize("window", [1024, 8192])
def test_pre_echo_grows_with_the_window(window):
    "Random phases in long windows smear; a change of gain does not; a recording without attacks has no answer"
    x, window_ = bursts(4, 0), torch.hann_window(window)
    spec = torch.stft(x, window, window // 4, window=window_, return_complex=True)
    phase = 2 * torch.pi * torch.rand(spec.shape, generator=torch.Generator().manual_seed(0))
    y = torch.istft(torch.polar(spec.abs(), phase), window, window // 4, window=window_, length=len(x))
    leak = clipwise.pre_echo(y, x, 44100)
    assert leak > (3 if window == 1024 else 30) and abs(clipwise.pre_echo(0.3 * x, x, 44100)) < 0.1
    assert np.isnan(clipwise.pre_echo(x, torch.sin(torch.arange(88200) / 30), 44100))


def test_the_top_is_heard_whatever_the_embedder_hears(tmp_path):
    "White noise and the same without its top: an embedder that ends at 11 kHz hears little, top and spectrum all of it"
    g = torch.Generator().manual_seed(0)
    white = 0.1 * torch.randn(24, 1, 30000, generator=g)
    hz = torch.fft.rfftfreq(30000, 1 / 44100)
    dull = torch.fft.irfft(torch.fft.rfft(white) * (hz < 12000), 30000)
    sets = [Sounds(x, 44100, labels=["noise"] * len(x)) for x in (white[:12], white[12:], dull[12:])]
    same, cut = (judge(s, sets[0]) for s in sets[1:])
    assert abs(same["top"].value) < 0.5 and cut["top"].value < -1 and cut["spectrum"].value > 10 * same["spectrum"].value
    assert cut["frechet"].value < 1.5 * same["frechet"].value
    assert any("hears up to 11025 Hz" in note for note in cut.record["notes"])


def test_two_sample_test():
    g = torch.Generator().manual_seed(0)
    x, y = (torch.randn(100, 16, generator=g) for _ in range(2))
    share = lambda a, b, *labels: judging.told_apart(a, b, *labels).share()
    assert 0.35 < share(x, y) < 0.62 and share(x, y + 3) > 0.98
    labels = [0] * 50 + [1] * 50
    shifted = x + 5 * torch.tensor(labels)[:, None], y + 5 * (1 - torch.tensor(labels))[:, None]
    said = judging.told_apart(*shifted, labels, labels[::-1], draws=2)
    assert len(said) == 200 and int(said.tried.sum()) == 400 and share(*shifted, labels, labels[::-1]) < 0.65
    assert len(judging.told_apart(x[:3], y)) == 0  # too few to say


def test_bandwidths_are_made_equal_before_sets_are_told_apart():
    "Low-passed noise is told from noise by its band alone; brought to one band, it is not"
    g = torch.Generator().manual_seed(1)
    white = 0.1 * torch.randn(60, 1, 22050, generator=g)
    dull = torch.fft.irfft(torch.fft.rfft(white[30:]) * (torch.fft.rfftfreq(22050, 1 / 22050) < 5000), 22050)
    sets = [Sounds(x, 22050, labels=["noise"] * 30) for x in (white[:30], dull)]
    emb = [heard_clips.embed_clips(s, "log-mel", False, progress=False) for s in sets]
    assert judging.told_apart(emb[0].clips, emb[1].clips).share() == 1
    assert judge(sets[1], sets[0])["told_apart"].value < 0.8


@pytest.mark.parametrize("make", [em.LogMelStatistics, lambda: em.VGGish(), lambda: classifier("small"), second_listener.HandMade],
                         ids=["statistics", "vggish", "classifier", "hand-made"])
def test_nothing_above_hears_to_is_heard(make):
    embedder, t = make(), torch.arange(44100) / 44100
    embedder.peak = False
    plain = 0.1 * torch.randn(44100)
    answers = [embedder.embed((plain + 0.1 * torch.sin(2 * torch.pi * hz * t))[None], 44100)
               for hz in (min(1.5 * embedder.hears_to, 21000), 0.6 * embedder.hears_to)]
    far = [float((a - embedder.embed(plain[None], 44100)).abs().max()) for a in answers]
    assert far[0] < 0.1 * far[1]


def test_aisfx_in_bf16_is_the_same_embedder():
    root = Path(os.environ.get("FOLEYBOOK_DATA", "data")) / "esc10"
    try:
        plain, half = em.Aisfx(precision="float32"), em.Aisfx(precision="bf16")
    except FileNotFoundError:
        pytest.skip("aisfx is not installed")
    if not root.exists():
        pytest.skip("ESC-10 is not on disk")
    clips = heard_clips.Clips(open_dataset(root).subset(range(0, 400, 67)))
    for i in range(len(clips)):
        a, b = (e.embed(*clips.read(i)) for e in (plain, half))
        assert torch.cosine_similarity(a, b).min() > 0.999
    assert plain.hash != half.hash and plain.hears_to == 22050
    with pytest.raises(ValueError, match="float32"):
        em.Aisfx(precision="half")


def test_progress_is_told_without_a_terminal(capsys):
    assert list(heard_clips.with_progress(range(3), 3, "things", every=0)) == [0, 1, 2]
    assert "things: 2 of 3" in capsys.readouterr().err
    assert list(heard_clips.with_progress(range(3), 3, "things", progress=False, every=0)) == [0, 1, 2]
    assert capsys.readouterr().err == ""


NASTY = ["../../x", "/tmp/x", "rain", "Rain", "雨", "C", "C++", "a/b", "..", "", "<b>bold</b>", "x" * 300]


def test_folder_names_are_distinct_and_stay_inside():
    names = boards._folder_names(NASTY)
    assert len({n.lower() for n in names.values()}) == len(NASTY)
    for name in names.values():
        assert name and "/" not in name and name not in (".", "..") and len(name.encode()) < 255
    assert names["rain"] == "rain" and names["雨"] == "雨"


def renamed(table, old, new):
    return ClipTable(table.df.assign(label=[new if label == old else label for label in table.df.label]), table.root)


def test_a_label_is_no_path(toy, tmp_path):
    "A label and a family called ../../x are judged under their names, and nothing is written outside"
    train, held = (renamed(read_folder(toy / n), "rain", "../../x") for n in ("real", "held"))
    out = tmp_path / "deep/er/board"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first = boards.leaderboard(train, held, out, dict(floor=boards.FAMILIES["shaped_noise"]), n=2, seconds=1.0, embedder="log-mel",
                               cache=False, times=0, progress=False)
        board = boards.leaderboard(train, held, out, {"../../y": str(out / "floor")}, n=2, seconds=1.0, embedder="log-mel",
                               cache=False, times=0, progress=False)
    assert first.status.tolist() == ["real", "trained"] and board.status.tolist() == ["real", "loaded"]
    reports.save_leaderboard(board, out)
    outside = [f for f in tmp_path.rglob("*") if f.is_file() and out not in f.parents]
    assert not outside
    listed = pd.read_csv(next(out.glob("*y-*/samples/clips.csv")))
    assert set(listed.label) == {"../../x", "dog_bark", "keyboard"}
    page = (out / "leaderboard.html").read_text()
    assert page.count("<audio") == 3 and "../../y" in page
    record = json.loads((out / "leaderboard.json").read_text())
    assert set(record) == {"held-out recordings", "../../y"}


class Deaf(Generator):
    "Takes control tracks, no classes"
    asks = frozenset({"controls"})


class DeafRecipe(mel_classifiers.ClassifierRecipe):
    presets = {"deaf-test": {}}

    def build_model(self, dls) -> Deaf:
        raise AssertionError("must not be trained")


def test_absent_families_are_hidden_and_say_why(toy, tmp_path, capsys):
    families = dict(floor=boards.FAMILIES["shaped_noise"], deaf=("evaluation", "deaf-test"), nowhere=("nowhere", "quick-nowhere"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        board = boards.leaderboard(read_folder(toy / "real"), read_folder(toy / "held"), tmp_path / "b", families, n=2, seconds=1.0,
                               embedder="log-mel", cache=False, times=0)
    assert board.absent.tolist() == [False, False, True, True]
    assert "cannot be asked for a class, only for controls" in board.status[2]
    assert boards.leaderboard_table(board).family.tolist() == ["held-out recordings", "floor"]
    assert len(boards.leaderboard_table(board, absent=True)) == 4
    assert "deaf" not in reports.leaderboard_page(board, tmp_path / "b")
    assert "deaf" in reports.leaderboard_page(board, tmp_path / "b", absent=True)
    told = capsys.readouterr().err
    assert "floor: training" in told and "floor: judging" in told
    assert board.training_seconds[1] >= 0 and board.seconds_per_clip[1] > 0


def test_the_rnn_can_be_asked_for_a_class():
    recipe, why = boards._family(boards.FAMILIES["multitier_rnn"])
    assert recipe.name == "quick-rnn" and not why


def test_a_bad_model_folder_is_told_before_anything_is_trained(toy, tmp_path):
    (tmp_path / "empty").mkdir()
    for name, kind, said in (("typo", CheckpointError, "typo: no such folder"), ("empty", ValueError, "empty: holds no trained model for 'mine'")):
        families = dict(floor=boards.FAMILIES["shaped_noise"], mine=str(tmp_path / name))
        with pytest.raises(kind, match=said):
            boards.leaderboard(read_folder(toy / "real"), read_folder(toy / "held"), tmp_path / "b", families)
    assert not (tmp_path / "b").exists()


class Outside(HTMLParser):
    "What a page refers to, players without a name, pictures without a text"

    def __init__(self, text):
        super().__init__()
        self.links, self.faults, self.open = [], [], []
        self.feed(text)
        self.faults += [f"<{t}> is never closed" for t in self.open]

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.links += [attrs[k] for k in ("src", "href", "action", "srcset") if k in attrs]
        if tag == "img" and not attrs.get("alt") or tag == "audio" and not attrs.get("aria-label"):
            self.faults.append(self.get_starttag_text()[:80])
        if tag not in ("img", "meta", "br", "input", "!doctype"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> closes nothing")


@pytest.fixture(scope="module")
def pages(toy, tmp_path_factory):
    "One page of each kind, of sets with names that would like to be markup"
    out, name = tmp_path_factory.mktemp("pages"), "<img src=http://x.y onerror=alert(1)>"
    train, held = (renamed(read_folder(toy / n), "rain", name) for n in ("real", "held"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        board = boards.leaderboard(train, held, out / "board", dict(floor=boards.FAMILIES["shaped_noise"]), n=2, seconds=1.0, embedder="log-mel",
                               cache=False, times=0, progress=False)
    made = open_dataset(out / "board/floor/samples/clips.csv")
    result = judge(made, held, train=train)
    return dict(report=reports.report_page(result), leaderboard=reports.leaderboard_page(board, out / "board"),
                gallery=gallery_page(made, held, real_per_class=2),
                listening=reports.listening_page(dict(a=held, b=made), out / "ears", n=1).read_text()), name


@pytest.mark.parametrize("kind", ["report", "leaderboard", "gallery", "listening"])
def test_pages_are_whole_escaped_and_reach_for_nothing(pages, kind):
    texts, name = pages
    text = Outside(texts[kind])
    assert not text.faults
    assert text.links and all(link.startswith("data:") for link in text.links)
    assert name not in texts[kind] and "&lt;img src=http://x.y" in texts[kind]
    assert "default-src &#39;none&#39;" in texts[kind] or "default-src 'none'" in texts[kind]
    assert "prefers-color-scheme:dark" in texts[kind] and "color-scheme:light dark" in texts[kind]


def test_players_tell_length_seed_and_licence(pages):
    texts, _ = pages
    assert "1.00 s, seed 0, licence" in texts["gallery"] and "1.20 s, licence" in texts["gallery"]
    sounds = Sounds(0.1 * torch.ones(1, 1, 8000), 8000, seeds=[41], labels=["rain"], meta=dict(licence="CC0"))
    assert "1.00 s, seed 41, licence CC0" in gallery_page(sounds)
    assert "licence unknown" in gallery_page(Sounds(sounds.audio, 8000, labels=["rain"]))


def test_a_broken_file_is_left_out_of_the_gallery(toy, tmp_path):
    Sounds(0.1 * torch.ones(3, 1, 8000), 8000, labels=["rain"] * 3).save(tmp_path)
    sorted(tmp_path.glob("*.wav"))[1].write_bytes(b"RIFF, but no sound")
    page = gallery_page(tmp_path)
    assert page.count("<audio") == 2 and "1 files cannot be read and are left out" in page


def gallery_of(folder, levels=(0.1, 0.1)):
    "Sounds of these levels, saved as `sample` does"
    noise = torch.randn(len(levels), 1, 8000, generator=torch.Generator().manual_seed(0))
    Sounds(torch.tensor(levels)[:, None, None] * noise.clamp(-1, 1), 8000, labels=["rain"] * len(levels)).save(folder)
    return folder


def test_players_of_a_gallery_are_equally_loud(tmp_path):
    import base64
    import io

    page = gallery_page(gallery_of(tmp_path, (0.01, 0.9)))
    heard = [sf.read(io.BytesIO(base64.b64decode(part.split('"')[0])))[0] for part in page.split('src="data:audio/mpeg;base64,')[1:]]
    quiet, loud = (np.sqrt((x**2).mean()) for x in heard)
    assert 0.9 < quiet / loud < 1.1 and "equally loud" in page
    assert page.count("<a download=") == 2 and page.count('id="all"') == 1 and "script-src" in page


@pytest.mark.parametrize("how", ["above", "absolute", "link", "table", "linked folder"])
def test_a_gallery_shows_nothing_from_outside_its_folder(tmp_path, capsys, how):
    secret = gallery_of(tmp_path / "private")
    folder, file = gallery_of(tmp_path / "stranger"), next(secret.glob("*.wav"))
    own = next(folder.glob("*.wav"))
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    if how == "link":
        own.unlink()
        own.symlink_to(file)
    elif how == "linked folder":
        (folder / "in").symlink_to(secret)
        rows[0]["file"] = f"in/{file.name}"
    else: rows[0]["file"] = f"../private/{file.name}" if how != "absolute" else str(file)
    (folder / "metadata.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    if how == "table":
        (folder / "metadata.jsonl").unlink()
        (folder / "clips.csv").write_text(f"path,label\n../private/{file.name},rain\n")
    assert main(["gallery", str(folder)]) == 1
    assert "lies outside" in capsys.readouterr().err and not (folder / "index.html").exists()


@pytest.mark.parametrize("row", [dict(file=3), dict(file=None), dict(file="a\0b"), dict(seed="x"), dict(seed=[1]), dict(label=3), dict(label=["rain"]),
                                 dict(meta=[1]), dict(meta=dict(licence=[1]))], ids=str)
def test_a_damaged_list_of_a_gallery_is_named(tmp_path, capsys, row):
    folder = gallery_of(tmp_path / "made")
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    (folder / "metadata.jsonl").write_text(json.dumps(rows[0] | row) + "\n")
    assert main(["gallery", str(folder)]) == 1 and "metadata.jsonl: damaged" in capsys.readouterr().err


@pytest.mark.parametrize("report,fine", [(dict(model="runs/moved"), True), (dict(model="hf://stranger/model"), True), (dict(), True), (dict(model="pops"), True),
                                         (dict(model=[1]), False), (dict(data=3), False), (dict(model="x\0y"), True)], ids=str)
def test_a_gallery_whose_model_has_moved(tmp_path, monkeypatch, capsys, report, fine):
    "The card of a model is read where it lies on this machine; the network is never asked"
    import huggingface_hub

    def asked(*_, **__): raise AssertionError("asked the network")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", asked)
    monkeypatch.chdir(tmp_path)
    folder = gallery_of(tmp_path / "made")
    (folder / "sampling.json").write_text(json.dumps(report))
    assert main(["gallery", str(folder)]) == (0 if fine else 1)
    assert fine or "sampling.json: is damaged" in capsys.readouterr().err
    if fine: assert "Sounds of" not in (folder / "index.html").read_text() and "<h1>Sounds " in (folder / "index.html").read_text()


def test_recordings_beside_a_gallery_are_those_its_own_model_names(tmp_path):
    "Not what a stranger's list says: it would put any folder of this machine on a page"
    private = gallery_of(tmp_path / "private" / "rain").parent
    for name, fine in (("theirs/model", False), ("ours", True)):
        folder, model = gallery_of(tmp_path / "theirs" / name.replace("/", "_")), tmp_path / name
        if not fine: model = folder / "model"
        model.mkdir(parents=True)
        (model / "run.json").write_text(json.dumps(dict(data=str(private))))
        (folder / "sampling.json").write_text(json.dumps(dict(model=str(model), data=str(private))))
        assert main(["gallery", str(folder)]) == 0
        assert ("beside recordings" in (folder / "index.html").read_text()) == fine
        (folder / "sampling.json").write_text(json.dumps(dict(data=str(private))))
        assert main(["gallery", str(folder)]) == 0 and "beside recordings" not in (folder / "index.html").read_text()


def test_the_recordings_that_ship_name_author_and_licence():
    from foleybook.core.generator import shipped_models
    table = open_dataset(shipped_models()["foley"] / "recordings")
    assert len(table) == 39 and table.df.label.nunique() == 30 and set(table.df.licence) == {"CC0", "CC-BY"} and (table.df.author != "").all() and table.df.source_url.str.startswith("http").all()
    page = gallery_page(Sounds(0.1 * torch.ones(1, 1, 8000), 8000, labels=["rain"], meta=dict(licence="CC0")), table)
    assert "licence unknown" not in page and "by laura222" in page


def test_a_card_is_told_in_words(tmp_path):
    from foleybook.apps.cli import _measured
    metrics = {"measured on": "100 clips against 40 recordings", "recognised": 0.98, "recognised of recordings": 0.95, "Frechet distance": 132, "copies": 0,
               "odd figure": 1.25, "words": "many"}
    (tmp_path / "config.json").write_text(json.dumps(dict(card=dict(metrics=metrics))))
    assert _measured(str(tmp_path)) == ("By its card: 98% are recognised as what was asked for (recordings: 95%); Frechet distance 132, lower is nearer to "
                                        "recordings; no copy of a training clip found. Measured on 100 clips against 40 recordings.")
    (tmp_path / "config.json").write_text(json.dumps(dict(card=dict(metrics={"odd figure": 1.25}))))
    assert _measured(str(tmp_path)) == "By its card: odd figure 1.25."
    told = _measured("foley")
    assert told.count("(recordings: ") == 5 and len(told) < 600  # the card of every shipped generator has words for its figures
    for card in (3, None, [], dict(metrics=[1]), dict(metrics=None)):
        (tmp_path / "config.json").write_text(json.dumps(dict(card=card)))
        assert _measured(str(tmp_path)) == ""


def test_the_report_frames_the_diagonal(pages):
    text = pages[0]["report"]
    rows = text.split('class="confusion"')[1].split("</table>")[0].split("<tbody>")[1].split("</tr>")[:3]
    for k, row in enumerate(rows):
        cells = row.split("<td")[1:]
        assert ["right" in c.split(">")[0] for c in cells] == [j == k for j in range(3)]


def test_listeners_learn_nothing_of_the_systems(toy, tmp_path):
    page = reports.listening_page(dict(secretmodel=toy / "held", recordings=toy / "real"), tmp_path, n=1).read_text()
    key = pd.read_csv(tmp_path / "key.csv")
    assert "secretmodel" not in page and set(key.system) == {"secretmodel", "recordings"} and "<img" not in page
    again = pd.read_csv(reports.listening_page(dict(secretmodel=toy / "held", recordings=toy / "real"), tmp_path, n=1).parent / "key.csv")
    assert key.equals(again)


@pytest.mark.parametrize("damage", ["clean", "10dB", "low-pass", "wrong labels", "no attacks"])
def test_damages_do_what_they_say(damage):
    g = torch.Generator().manual_seed(0)
    good = Sounds(0.1 * torch.randn(3, 1, 44100, generator=g), 44100, labels=["a", "b", "c"])
    bad = ev.damaged(good, damage)
    noise = (bad.audio - good.audio).square().mean().sqrt() / good.audio.square().mean().sqrt()
    power = torch.fft.rfft(bad.audio).abs().square().mean((0, 1))
    assert (bad.labels == ["c", "a", "b"]) == (damage == "wrong labels")
    if damage == "10dB":
        assert abs(20 * np.log10(float(noise)) + 10) < 0.3
    elif damage == "low-pass":
        assert power[5000:].sum() < 1e-3 * power.sum()
    elif damage == "no attacks":
        assert noise > 1 and abs(float(bad.audio.std() / good.audio.std()) - 1) < 0.3
    else:
        assert noise == 0
    with pytest.raises(ValueError, match="use 'clean'"):
        ev.damaged(good, "hum")


def test_published_melception_of_another_kind_is_refused(tmp_path):
    torch.save(dict(model=dict(weight=torch.zeros(2))), tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="other.pt: holds no 'fc.weight'"):
        mel_classifiers.Melception.from_original(tmp_path / "other.pt")


def board(train, held, out, families, **options):
    "A small leaderboard"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return boards.leaderboard(train, held, out, families, **dict(dict(n=2, seconds=1.0, embedder="log-mel", cache=False, times=0,
                                                                      progress=False), **options))


@pytest.mark.parametrize("change", ["clips", "settings"])
def test_what_was_trained_on_other_clips_or_settings_is_trained_again(toy, tmp_path, change):
    "No model is judged by the clips it learnt from because its folder has the same name"
    train, held, out = read_folder(toy / "real"), read_folder(toy / "held"), tmp_path / "b"
    floor = dict(floor=boards.FAMILIES["shaped_noise"])
    one, again = (board(train, held, out, floor) for _ in range(2))
    assert (one.status[1], again.status[1]) == ("trained", "loaded")
    weights = (out / "floor/model.safetensors").read_bytes()
    other = (board(held, train, out, floor) if change == "clips"
             else board(train, held, out, floor, overrides={"model": boards.ShapedNoiseConfig(steps=20)}))
    assert other.status[1] == "trained" and (out / "floor/model.safetensors").read_bytes() != weights
    assert (out / "floor_earlier_1/model.safetensors").read_bytes() == weights
    fresh = board(held, train, tmp_path / "fresh", floor) if change == "clips" else None
    assert fresh is None or fresh.kernel[1] == other.kernel[1]


def test_a_loaded_model_that_learnt_from_its_judges_says_so(toy, tmp_path):
    train, held = read_folder(toy / "real"), read_folder(toy / "held")
    board(train, held, tmp_path / "b", dict(floor=boards.FAMILIES["shaped_noise"]))
    mine = tmp_path / "b/floor"
    assert board(train, held, tmp_path / "c", dict(mine=mine)).status[1] == "loaded"
    assert "trained on other clips" in board(held, train, tmp_path / "d", dict(mine=mine)).status[1]
    (mine / "run.json").write_text(json.dumps(dict(data=str(toy / "real"), hold_out=["label=rain"])))
    status = board(held, train, tmp_path / "e", dict(mine=mine)).status[1]
    assert status == "loaded; 12 of the 18 clips that judge it were in its training"


def test_a_task_has_a_board_of_its_own_by_one_command(toy, tmp_path, monkeypatch, capsys):
    "`--board NAME`: its competitors, its length, and a listener that learnt from the training clips alone"
    real = read_folder(toy / "real")
    split = ["valid" if int(Path(f).stem) > 3 else "train" for f in real.df.path]
    ClipTable(real.df.assign(split=split), real.root).save(tmp_path / "clips.csv")
    monkeypatch.setitem(boards.BOARDS, "toy", boards.Board(("shaped-noise",), "classifier-test", 0.5))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = leaderboard(str(tmp_path / "clips.csv"), board="toy", out=str(tmp_path / "b"), per_class=2, times=0, device="cpu")
    said = capsys.readouterr().out
    assert "judged by the valid split: 12 clips to learn from, 6 to judge by" in said
    assert "models 6 clips of 0.5 s against 6 recordings of 0.5 s" in said and "heard by MelClassifier" in said
    assert found.status.tolist() == ["real", "trained"] and found.accuracy.between(0, 1).all()
    assert (tmp_path / "b/listener-toy/model.safetensors").is_file()
    shown = pd.read_csv(tmp_path / "b/leaderboard.csv")
    assert np.allclose(shown.frechet, found.frechet)
    with pytest.raises(ValueError, match="board='toyy' is not known. Did you mean toy"):
        leaderboard(str(tmp_path / "clips.csv"), board="toyy", out=str(tmp_path / "c"))


def test_a_board_ends_what_is_made_where_the_sound_ends(tmp_path):
    "Breath 46 dB below a word is no part of it; a tail that can be heard is, and silence stays as it is"
    class Breathing(boards.ShapedNoise):
        def _sample(self, cond, n, seeds, seconds=None):
            x = torch.full((n, 1, 4000), self.tail)
            x[..., :1600] = 0.8
            return x

    model = Breathing(boards.ShapedNoiseConfig(labels=("word",), sample_rate=8000, seconds=0.5))
    for tail, kept in ((0.004, 1600 + 160), (0.04, 4000)):
        model.tail = tail
        boards._sample_for(model, ["word"], 1, 0.5, 0, tmp_path / str(tail), trim=True)
        assert sf.info(tmp_path / str(tail) / "word/000.wav").frames == kept
    model.tail = 0.004
    boards._sample_for(model, ["word"], 1, 0.5, 0, tmp_path / "whole")
    assert sf.info(tmp_path / "whole/word/000.wav").frames == 4000
    assert boards._sounding(torch.zeros(1, 4000), 8000).shape == (1, 4000)


def test_boards_name_recipes_of_their_length():
    "A network is asked for what it was trained for, and its judge hears at its rate"
    for name, b in boards.BOARDS.items():
        listener = find_recipe(b.listener)
        assert listener.seconds == b.seconds, name
        for family in b.families:
            recipe = find_recipe(family)
            assert (recipe.seconds, recipe.model.sample_rate) == (b.seconds, listener.model.mel.sample_rate), family


def test_textures_have_a_board_by_the_same_command(toy, tmp_path):
    "The rain that ships beside recordings of which some were held out"
    real = read_folder(toy / "real").filter(label="rain")
    split = ["valid" if i < 2 else "train" for i in range(len(real))]
    ClipTable(real.df.assign(split=split), real.root).save(tmp_path / "clips.csv")
    models = [f"rain={Path(boards.__file__).parent.parent / 'weights/rain'}"]
    found = leaderboard(str(tmp_path / "clips.csv"), board="textures", models=models, out=str(tmp_path / "b"), quiet=True)
    assert found.index.tolist() == ["rain"] and found.rms["rain"] > 0.9 and (found.loc["rain", ["colour", "rhythm"]] > 0).all()
    written = pd.read_csv(tmp_path / "b/textures.csv", index_col="texture")
    assert np.allclose(written.values, found.values)
    real.save(tmp_path / "all.csv")
    with pytest.raises(TableError, match="6 recordings of 'rain', 0 of them learnt from. Give clips"):
        leaderboard(str(tmp_path / "all.csv"), board="textures", models=models, out=str(tmp_path / "c"), quiet=True)


def test_the_leaderboard_says_what_its_figures_stand_on(toy, tmp_path):
    found = board(read_folder(toy / "real"), read_folder(toy / "held"), tmp_path / "b", dict(floor=boards.FAMILIES["shaped_noise"]))
    said = boards.leaderboard_basis(found)
    assert "models 6 clips of 1 s against 18 recordings of 1 s (held), heard by log-mel statistics up to 8 kHz" in said
    reports.save_leaderboard(found, tmp_path / "b")
    assert said in (tmp_path / "b/leaderboard.html").read_text()


def test_a_plain_folder_is_split_the_same_way_every_time(toy):
    table = read_folder(toy / "real")
    table.df["source"] = table.df.label + (table.df.index // 2).astype(str)
    rest, held, how = boards.split_for_judging(table)
    again = boards.split_for_judging(table)
    assert (rest.tolist(), held.tolist()) == (again[0].tolist(), again[1].tolist())
    assert not set(table.df.source.iloc[rest]) & set(table.df.source.iloc[held])
    assert "a fifth of each label is held out" in how and f"{len(held)} to judge by" in how
    assert sorted([*rest, *held]) == list(range(len(table)))
    table.df["split"] = ["test"] * 4 + ["train"] * 14
    table.df["fold"] = [1, 2] * 9
    rest, held, _ = boards.split_for_judging(table, 2)
    assert not set(rest) & {0, 1, 2, 3} and set(held) == set(range(1, 18, 2))
    with pytest.raises(TableError, match="too few"):
        boards.split_for_judging(table.subset([0]))


def test_families_go_by_the_name_of_their_recipe_too(toy, tmp_path):
    assert list(boards.find_families(["shaped-noise", "pixelsnail"]).items()) == [
        ("shaped-noise", ("judge.leaderboard", "shaped-noise")), ("pixelsnail", boards.FAMILIES["pixelsnail"])]
    found = board(read_folder(toy / "real"), read_folder(toy / "held"), tmp_path / "b", ["shaped-noise"])
    assert found.family.tolist() == ["held-out recordings", "shaped-noise"] and found.status[1] == "trained"
    with pytest.raises(ValueError, match="Did you mean shaped-noise"):
        boards.find_families(["shaped-noize"])


@pytest.mark.parametrize("times", [10**9, -1, 2.5, True, "many"])
def test_resamplings_are_bounded(toy, times):
    with pytest.raises(ValueError, match="from 0 to 10000"):
        judge(toy / "held", toy / "real", times=times)


def test_sets_that_share_clips_are_told(toy, tmp_path):
    "By content, whatever the files are called"
    notes = lambda *sets, **more: " ".join(judge(*sets, **more).record["notes"])
    assert "judged against itself" in notes(toy / "held", toy / "held")
    clean = notes(toy / "held", toy / "real")
    assert "itself" not in clean and "training clips" not in clean
    said = notes(toy / "held", toy / "real", train=toy / "real")
    assert "18 of 18 reference recordings are training clips" in said
    (tmp_path / "some/rain").mkdir(parents=True)
    for i, folder in enumerate(("real", "held", "held")):
        (tmp_path / f"some/rain/take{i}.wav").write_bytes((toy / folder / f"rain/{i}.wav").read_bytes())
    said = notes(tmp_path / "some", toy / "real", train=toy / "held")
    assert "1 of 3 generated clips are recordings of the reference" in said and "2 of 3 generated clips are training clips" in said


def test_the_training_set_that_sounds_name_is_found(toy, tmp_path):
    "Copies are measured without being asked for"
    made, model = tmp_path / "made", tmp_path / "model"
    (made / "rain").mkdir(parents=True), model.mkdir()
    for i in range(3):
        (made / f"rain/{i}.wav").write_bytes((toy / f"held/rain/{i}.wav").read_bytes())
    (made / "sampling.json").write_text(json.dumps(dict(model=str(model), data=str(toy / "real"))))
    (model / "run.json").write_text(json.dumps(dict(data=str(toy / "real"), hold_out=["label=keyboard"])))
    result = judge(made, toy / "held")
    assert result.record["sets"]["train"]["clips"] == 12 and "copies" in set(result.table.measure)
    assert f"training clips: {toy / 'real'} without label=keyboard, as the model names them" in result.record["notes"]
    (made / "sampling.json").write_text(json.dumps(dict(model="foley")))
    assert any("trained on ESC-10" in n and "not found here" in n for n in judge(made, toy / "held").record["notes"])
    (made / "sampling.json").write_text("[1]")
    assert "train" not in judge(made, toy / "held").record["sets"]


def test_no_word_of_numpy_in_a_note(toy, tmp_path):
    for kind in ("rain", "wind"):
        (tmp_path / kind).mkdir()
        for i in range(2):
            (tmp_path / kind / f"{i}.wav").write_bytes((toy / f"held/rain/{i}.wav").read_bytes())
    notes = judge(tmp_path, toy / "real").record["notes"]
    assert "no reference for 'wind': these count only overall" in notes and "np." not in " ".join(notes)


def test_a_person_reads_by_whom_it_was_heard(toy, monkeypatch):
    "A ruler that depends on what is installed is named where the figures are"
    plain = judge(toy / "held", toy / "real")
    assert plain.in_words()[0] == "18 clips of 1.2 s against 18 recordings of 1.2 s (real), heard by log-mel statistics up to 8 kHz"
    def absent(*_): raise FileNotFoundError("aisfx is not installed")
    monkeypatch.setattr(em, "Aisfx", absent)
    auto = judge(toy / "held", toy / "real", embedder="auto")
    assert any("aisfx is not installed, log-mel statistics stand in" in n for n in auto.record["notes"])
    assert not any("aisfx" in n for n in plain.record["notes"])


def recordings(n_sources, d, takes, seed):
    "Takes of recordings that differ: features, labels, sources"
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n_sources, d, generator=g).repeat_interleave(takes, 0) + 0.1 * torch.randn(n_sources * takes, d, generator=g)
    source = np.arange(n_sources).repeat(takes)
    return x, source % 4, source


def test_recordings_against_recordings_read_half_whatever_their_takes():
    "Grouped by recording the two-sample test is 50 % on average; not grouped it is far below"
    grouped, blind = [], []
    for seed in range(12):
        x, label, source = recordings(40, 40, 2, seed)
        a, b = np.arange(0, 80, 2), np.arange(1, 80, 2)  # one take of each recording on either side
        grouped.append(judging.told_apart(x[a], x[b], label[a], label[b], source[a], source[b], seed=seed).share())
        blind.append(judging.told_apart(x[a], x[b], label[a], label[b], seed=seed).share())
        halves = np.isin(source, np.random.default_rng(seed).permutation(40)[::2])  # and on one only
        sides = [(x[h], label[h], source[h]) for h in (halves, ~halves)]
        grouped.append(judging.told_apart(*(v for pair in zip(*sides) for v in pair), seed=seed).share())
    assert 0.43 < np.mean(grouped) < 0.57 and np.mean(blind) < 0.4


def test_couples_leave_together():
    "As many clips of either set, of one label; no recording is left on both sides of a fold"
    _, label, source = recordings(12, 2, 3, 0)
    rng = np.random.default_rng(0)
    found = judging._couples((label, label), (source, source), rng)
    assert all(set(source[a]) == set(source[b]) for a, b in found) and len(found) == 12
    alone = judging._couples((label, label), (source, [f"made {i}" for i in range(36)]), rng)
    assert all(len(a) == len(b) == 3 and len(set(source[a])) == 1 and set(label[a]) == set(label[b]) for a, b in alone)
    assert sorted(i for a, _ in alone for i in a) == sorted(j for _, b in alone for j in b) == list(range(36))


def test_sources_follow_clips(toy):
    "From the table, else by content: the same file is the same recording wherever it lies"
    table = read_folder(toy / "real")
    table.df["source"] = ["a", "b", ""] * 6
    found = heard_clips.embed_clips(table, "log-mel", False, progress=False)
    assert found.sources[:2] == ["a", "b"] and found.sources[2] == found.digests[2]
    assert found.subset([2, 0]).sources == [found.digests[2], "a"]


def test_spread_is_one_for_recordings_and_falls_with_variety():
    g = torch.Generator().manual_seed(0)
    y, labels = torch.randn(80, 60, generator=g), ["a"] * 40 + ["b"] * 40
    x = torch.cat([torch.randn(40, 60, generator=g), 0.3 * torch.randn(40, 60, generator=g)])
    found = ev.spread(x, y, labels, labels)
    assert abs(found["a"] - 1) < 0.05 and abs(found["b"] - 0.3) < 0.03
    takes = y.repeat_interleave(2, 0)  # two takes of a recording are no two recordings
    double = np.repeat(labels, 2)
    plain, knowing = ev.spread(x, takes, labels, double), ev.spread(x, takes, labels, double, np.arange(160) // 2)
    assert plain["a"] > knowing["a"] and abs(knowing["a"] - found["a"]) < 0.02


def test_time_is_measured():
    "Regularity, modulation, unrest and E-L1 of sounds whose answer is known, at any gain and rate"
    t = torch.arange(4 * 44100) / 44100
    ticks = torch.zeros(4 * 44100)
    ticks[::22050] = 1
    noise = 0.1 * torch.randn(4 * 44100, generator=torch.Generator().manual_seed(0))
    assert clipwise.onset_regularity(ticks, 44100) > 0.8 > 0.25 > clipwise.onset_regularity(noise, 44100)
    assert clipwise.modulation_peak(noise * (1 + torch.sin(2 * torch.pi * 12 * t)), 44100) > clipwise.modulation_peak(noise, 44100) + 15
    assert clipwise.unrest(noise, 44100) > 3 * clipwise.unrest(torch.sin(2 * torch.pi * 300 * t), 44100)
    for f in (clipwise.onset_regularity, clipwise.modulation_peak, clipwise.unrest):
        assert abs(f(noise, 44100) - f(0.01 * noise, 44100)) < 1e-2
        assert not np.isinf(f(torch.zeros(44100), 44100)) and not np.isinf(f(noise[:100], 44100))
    assert clipwise.event_distance(noise, noise, 44100) == 0
    assert abs(clipwise.event_distance(noise, 3 * noise, 44100) - float(2 * clipwise.level_track(noise, 44100).mean())) < 1e-6


def test_facts_of_another_version_are_not_taken_from_the_cache(toy, tmp_path):
    "The cache knows which facts it holds"
    from typing import NamedTuple

    class One(NamedTuple):
        level: float

    class Two(NamedTuple):
        level: float
        more: float

    def facts(kind, *values):
        def clip_facts(x, rate): return kind(*values)
        clip_facts.__annotations__["return"] = kind
        return heard_clips.embed_clips(toy / "held", "log-mel", tmp_path, also=clip_facts, progress=False)

    first, second = facts(One, 1.0), facts(Two, 1.0, 2.0)
    assert list(first.facts)[3:] == ["level"] and list(second.facts)[3:] == ["level", "more"]


def test_a_second_listener_stands_beside_the_first(toy, tmp_path):
    told = judge(toy / "held", toy / "real", train=toy / "real", second=True)
    assert told["second"].value > 0.8 and {"spread", "apart_full", "apart_audible", "unrest"} <= set(told.table.measure)
    assert "second listener" in str(told) and told.record["recordings"]["scores"]["second"] == 1
    plain = judge(toy / "held", toy / "real", train=toy / "real")
    assert "second" not in set(plain.table.measure) and plain["accuracy"].value == told["accuracy"].value
    x = told.clips["generated"][1].more["audible"]
    own = second_listener.SecondListener(told.clips["train"][1].more["audible"], told.clips["train"][1].labels, 0)
    assert float(own.right(x, told.clips["generated"][1].labels).double().mean()) == told["second"].value
    found = board(read_folder(toy / "real"), read_folder(toy / "held"), tmp_path / "b", dict(floor=boards.FAMILIES["shaped_noise"]))
    assert found.second.notna().all() and "second" in boards.leaderboard_table(found)


def test_what_nobody_hears_does_not_tell():
    "A floor 80 dB below the peak and a band above 16 kHz betray a set by all features, not by the audible ones"
    g, t = torch.Generator().manual_seed(0), torch.arange(2 * 44100) / 44100
    def tones(hiss):
        return [torch.sin(2 * torch.pi * (300 + 200 * float(torch.rand(1, generator=g))) * t) * torch.exp(-2 * t)
                + 0.05 * torch.randn(len(t), generator=g) * torch.exp(-3 * t) + hiss * torch.randn(len(t), generator=g) for _ in range(16)]
    share = {}
    sets = tones(1e-6), tones(3e-4)
    for k, make in judging.MADE.items():
        x, y = (torch.cat([make().embed(s, 44100) for s in one]) for one in sets)
        share[k] = judging.told_apart(x, y).share()
    assert share["full"] > 0.95 and share["audible"] < 0.75


def test_one_clip_is_judged_by_what_one_clip_can_say(toy, tmp_path):
    "Few clips are held out of a small folder; that is no reason to stop"
    (tmp_path / "rain").mkdir()
    (tmp_path / "rain/0.wav").write_bytes((toy / "held/rain/0.wav").read_bytes())
    found = judge(tmp_path, toy / "real", second=True)
    assert {"accuracy", "second", "faulty"} <= set(found.table.measure) and "inception" not in set(found.table.measure)

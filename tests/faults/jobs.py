"""Every job tries one kind of fault many times and counts what survived: `python tests/faults/jobs.py --help`.

A fault is survived when the answer is right, or an error of this book that names the file; nothing else is: no raw error of torch or
numpy, no more than 20 s of the processor, no more than 2 GB, nothing lost that was saved before. Every try has a number, from which all of it is drawn.
"""
import argparse
import contextlib
import importlib
import io
import json
import multiprocessing
import os
import pkgutil
import random
import resource
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
import warnings
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(p) for p in (HERE, HERE.parent, HERE.parent.parent) if str(p) not in sys.path]

import damage  # noqa: E402
import numpy as np  # noqa: E402
import soundfile as sf  # noqa: E402

import foleybook  # noqa: E402
import tiny_run  # noqa: E402
import torch  # noqa: E402

from foleybook import audio_features, codebooks, sound_data, vocoders; from foleybook.apps import cli; from foleybook.core import clip_tables, code_maps, data_sets, files, generator, sound_files; from foleybook.train import recipes  # noqa: E402
from foleybook.apps.live import LivePlayer; from foleybook.multitier_rnn import AudioTier, AudioTierConfig  # noqa: E402
from foleybook.apps.codec import Encoded, NeuralCodec  # noqa: E402

fork = multiprocessing.get_context("fork")
JOBS, SECONDS, MEGABYTES = {}, 20, 1536
MEL = audio_features.MelConfig.preset("dcase2023")
SMALL = codebooks.VQVAEConfig(mel=MEL, freq_strides=(4, 2), time_strides=(4, 2), kernels=(4,), width=8, res_width=4, res_blocks=1, dim=4, n_codes=16)


def job(long, short, what):
    "`long` tries in the long form, `short` in the short one"
    def add(f):
        JOBS[f.__name__] = dict(run=f, long=long, short=short, what=what)
        return f
    return add


class Late(Exception):
    "A try took too long"


@contextlib.contextmanager
def in_time(seconds=SECONDS):
    "Not more than `seconds` of the processor, so that a busy machine changes nothing, and six times that by the clock"
    def late(number, _): raise Late(f"more than {seconds} s" if number == signal.SIGPROF else f"more than {6 * seconds} s by the clock")
    timers = {signal.SIGPROF: (signal.ITIMER_PROF, seconds), signal.SIGALRM: (signal.ITIMER_REAL, 6 * seconds)}
    old = {number: signal.signal(number, late) for number in timers}
    for timer, limit in timers.values(): signal.setitimer(timer, limit)
    try: yield
    finally:
        for number, (timer, _) in timers.items():
            signal.setitimer(timer, 0)
            signal.signal(number, old[number])


def ours(error):
    "An error that this book raises on purpose; of the system only what `explain` has a remedy for"
    return type(error).__module__.startswith("foleybook") or isinstance(error, OSError) and error.errno is not None


@contextlib.contextmanager
def quiet():
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def attempt(call, check=None):
    "What went wrong, or ''"
    try:
        with in_time(), quiet(): got = call()
        return (check(got) or "") if check else ""
    except Exception as e:
        return "" if ours(e) else f"{type(e).__name__}: {str(e)[:200]} at {traceback.extract_tb(e.__traceback__)[-1]}"


def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def apart(f, *args):
    "The answer of a function in a process of its own, so that memory can be told and a crash is seen"
    out = fork.Queue()

    def work():
        before = peak()  # a forked process begins with what its parent had
        try: answer = f(*args)
        except BaseException as e: answer = [(f.__name__, f"{type(e).__name__}: {e}")]
        out.put((answer, peak() - before))
        out.close()
        out.join_thread()
        os._exit(0)
    p = fork.Process(target=work)
    p.start()
    while p.is_alive() and out.empty(): p.join(0.05)
    if out.empty() and p.exitcode: return [(f.__name__, f"died with {p.exitcode}")]
    answer, most = out.get(timeout=10)
    p.join()
    return answer + ([("memory", f"{most:.0f} MB")] if most > MEGABYTES else [])


# ---- files that lie ----


@job(500, 60, "damaged sound files (wav, flac, ogg, mp3, aiff)")
def sounds(n, folder):
    def one(file):
        def check(x):
            x, rate = x
            if rate != 16000 or x.shape[1] > 32000 or not x.isfinite().all() or x.abs().max() > 100: return f"gave {tuple(x.shape)}"
        table = clip_tables.ClipTable(dict(path=[file.name], label=["x"]), folder)
        return (attempt(lambda: sound_files.read_audio(file, 16000, seconds=2.0), check) or attempt(lambda: sound_files.audio_info(file))
                or attempt(lambda: table.check(n_jobs=1), lambda t: None if len(t) + len(t.skipped) == 1 else "lost a file"))

    def all_of_them(): return [(f.name, e) for k in range(n) if (e := one(f := damage.audio(folder, k)))]
    return n, apart(all_of_them)


@job(300, 60, "damaged clip tables")
def tables(n, folder):
    clips = [folder / f"{i}.wav" for i in range(4)]
    for i, f in enumerate(clips): sf.write(f, np.random.default_rng(i).uniform(-0.5, 0.5, 4000), 8000)

    def use(file):
        table = data_sets.open_dataset(file).check(n_jobs=1)
        clip_tables.split_table(table)
        table.save(folder / "again.csv")
        return table.digest

    def all_of_them():
        return [(f.name, e) for k in range(n) if (e := attempt(lambda f=(f := damage.table(folder, k, [c.name for c in clips])): use(f)))]
    return n, apart(all_of_them)


def small_cascade(folder):
    "A folder of a codebook, a prior and a vocoder"
    torch.manual_seed(0)
    book = codebooks.VQVAE(SMALL).eval()
    prior = code_maps.UnigramPrior(code_maps.PriorConfig((10, 4), 16, 2, book.codebook_hash)).eval()
    voice = vocoders.ISTFTVocoder(vocoders.ISTFTConfig(MEL, 8, 16, 1)).eval()
    return code_maps.Cascade(prior, book, voice, ["rain", "pops"]).save_pretrained(folder)


@job(50, 12, "damaged model folders")
def folders(n, folder):
    small_cascade(folder / "whole")

    def weights(m): return torch.cat([v.flatten().float() for v in m.state_dict().values()])
    right = weights(generator.Pretrained.from_pretrained(folder / "whole"))

    def one(k):
        where = damage.folder(folder / "whole", folder / str(k), k)

        def use():
            model = generator.Pretrained.from_pretrained(folder / str(k))
            return weights(model), model.sample(n=1, seed=0, seconds=0.2, progress=False)

        def check(got):
            if got[0].shape != right.shape or not torch.equal(got[0], right): return "other weights, and no word"
        e = attempt(use, check)
        return e and f"{where}: {e}"
    return n, apart(lambda: [(str(k), e) for k in range(n) if (e := one(k))])


@job(300, 60, "model folders of a stranger: hostile settings, cards and parts, weights that are no files")
def hostile_folders(n, folder):
    small_cascade(folder / "whole")

    def one(k):
        did = damage.hostile(folder / "whole", folder / str(k), k)

        def use():
            model = generator.Pretrained.from_pretrained(folder / str(k))
            model.save_pretrained(folder / f"{k}.again")
        e = attempt(use)
        return e and f"{did}: {e}"
    return n, apart(lambda: [(str(k), e) for k in range(n) if (e := one(k))])


def loaders():
    "Everything that reads weights: every `from_original`, `from_pretrained`, and the readers themselves"
    found = {"files.read_published": files.read_published, "files.published_weights": files.published_weights,
             "data_sets.load_features": data_sets.load_features}
    named = [m.name for m in pkgutil.walk_packages(foleybook.__path__, "foleybook.") if m.name.rpartition(".")[2][0] != "_"]
    for room in map(importlib.import_module, named):
        for name, cls in vars(room).items():
            if isinstance(cls, type) and cls.__module__ == room.__name__:
                if "from_original" in vars(cls) and getattr(cls, "published", True): found[f"{room.__name__[10:]}.{name}.from_original"] = cls.from_original
    return found


def as_folder(file, name="HiFiGAN"):
    "A model folder whose weights are this file"
    inside = file.with_name(f"{file.name}.folder")
    if not inside.exists():
        whole = file.with_name("whole")
        if not whole.exists(): vocoders.ISTFTVocoder(vocoders.ISTFTConfig(MEL, 8, 16, 1)).save_pretrained(whole)
        inside.mkdir()
        about = json.loads((whole / "config.json").read_text())
        about.pop("weights")  # as an older version wrote it
        (inside / "config.json").write_text(json.dumps(about))
        (inside / "model.safetensors").write_bytes(file.read_bytes())
    return inside


@job(24, 24, "hostile weight files, each through every loader")
def weights(n, folder):
    mark = folder / "ran"
    every = damage.weights(folder, mark)[:n]
    readers = {"files.read_published", "files.published_weights", "data_sets.load_features"}

    def all_of_them():
        failed, tries = [], loaders() | {"generator.Pretrained.from_pretrained": lambda f: generator.Pretrained.from_pretrained(as_folder(f))}
        for name, load in tries.items():
            for file in every:
                e = attempt(lambda: load(file), lambda got: None if name in readers else "was taken for a model")
                failed += [(f"{name} {file.name}", e)] if e else []
        return failed + [("payload", "was run")] * mark.exists()
    return len(every) * (len(loaders()) + 1), apart(all_of_them)


# ---- the plug is pulled ----


def clips(folder, n=6):
    for label in ("hiss", "rumble"):
        for i in range(n):
            (folder / label).mkdir(parents=True, exist_ok=True)
            sf.write(folder / label / f"{i}.wav", np.random.default_rng(i).uniform(-0.4, 0.4, 8000), 16000)
    return folder


def content(folder, *patterns):
    "{name: bytes} of the files that must come out the same"
    return {p.relative_to(folder).as_posix(): p.read_bytes() for pattern in patterns for p in sorted(folder.rglob(pattern))
            if not p.relative_to(folder).parts[0].startswith(("earlier_", "evaluation"))}


def in_child(f, *args, limit=None):
    "Start a function in a process of its own"
    def work():
        try:
            if limit is not None:
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            with quiet(): f(*args)
            code = 0
        except BaseException as e:
            if not (ours(e) or isinstance(e, SystemExit)): traceback.print_exc()
            code = e.code if isinstance(e, SystemExit) else 3 if ours(e) else 4
        os._exit(code)
    p = fork.Process(target=work)
    p.start()
    return p


def verb(*words):
    "A verb of the command line; its exit code is that of the process"
    torch.set_num_threads(1)
    raise SystemExit(cli.main(["--debug", *map(str, words)]))


class Work:
    "Something that writes: how it is begun, how it goes on, and what it must leave in the end"

    def __init__(self, folder):
        self.folder, self.model, self.data = folder, folder / "model", clips(folder / "clips")
        torch.manual_seed(0)
        tiny_run.Tiny(tiny_run.TinyConfig()).eval().save_pretrained(self.model)

    def prepare(self, out):
        os.environ["FOLEYBOOK_CACHE"] = str(out / "cache")
        verb("prepare", self.data, "--seconds", "0.5", "--out", out, "--jobs", "1", "--quiet")

    def train(self, out): tiny_run.recipe(checkpoint_steps=3, steps=48, game=True, ema=0.9).train(None, out, progress=False)

    def train_again(self, out):
        recipes.train_stage(tiny_run.recipe(checkpoint_steps=3, steps=48, lr=0.02), None, "data", out, True, False, lambda *_: None)

    def before_train_again(self, out):
        recipes.train_stage(tiny_run.recipe(checkpoint_steps=3, steps=24), None, "data", out, True, False, lambda *_: None)

    def sample(self, out): verb("sample", self.model, "--out", out, "--per-class", "20", "--batch", "4", "--quiet")

    def leaderboard(self, out):
        from foleybook.judge.leaderboard import leaderboard

        table = data_sets.open_dataset(self.data)
        halves = [table.subset(range(k, len(table), 2)) for k in range(2)]
        halves = [clip_tables.ClipTable(t.df.assign(fold=k), t.root) for k, t in enumerate(halves)]
        leaderboard(*halves, out, dict(tiny=self.model), n=2, seconds=0.5, embedder="log-mel", times=5, progress=False)

    LEFT = dict(prepare=("rows.bin", "rows.npy", "clips.csv"), train=("model.safetensors", "pipeline.json"), train_again=("model.safetensors",),
                sample=("*.wav",), leaderboard=("samples/*/*.wav",))

    def left(self, name, out):
        found = content(out, *self.LEFT[name])
        return {k: v for k, v in found.items() if "checkpoints" not in k}

    def begin(self, name, out):
        if before := getattr(self, f"before_{name}", None): in_child(before, out).join()

    def whole(self, name):
        "What it leaves when nobody disturbs it, and the seconds it takes"
        out = self.folder / f"{name}_whole"
        self.begin(name, out)
        start = time.time()
        p = in_child(getattr(self, name), out)
        p.join()
        if p.exitcode: raise RuntimeError(f"{name} fails undisturbed: {p.exitcode}")
        return self.left(name, out), time.time() - start


def killed(name, n, folder):
    "Kill at a random moment, again and again until it ends by itself at last: it must leave what an undisturbed one leaves"
    work, failed = Work(folder), []
    right, seconds = work.whole(name)
    for k in range(n):
        out, rng = folder / f"{name}_{k}", random.Random(k)
        work.begin(name, out)
        for _ in range(rng.choice([1, 1, 2])):
            p = in_child(getattr(work, name), out)
            p.join(rng.uniform(0.02, 1) * seconds)
            p.kill()
            p.join()
        p = in_child(getattr(work, name), out)
        p.join()
        if p.exitcode: failed.append((f"{name} {k}", f"does not go on: exit code {p.exitcode}"))
        elif (left := work.left(name, out)) != right:
            failed.append((f"{name} {k}", f"other result: {sorted(x for x in right.keys() | left.keys() if right.get(x) != left.get(x))[:4]}"))
    return n, failed


@job(400, 60, "files of codes whose digest is right and whose head lies")
def codec_files(n, folder):
    codec = NeuralCodec(codebooks.VQVAE(SMALL).eval(), audio_features.GriffinLim(MEL, 1))
    file = codec.encode(torch.randn(1, 20_000), 22050).save(folder / "whole.foley")
    samples, whole = codec.decode(Encoded.load(file)).shape[-1], file.read_bytes()

    def one(k):
        bad = folder / "bad.foley"
        bad.write_bytes(damage.codec(whole, k))
        def check(x): return "" if x.shape[-1] <= 2 * samples and len(x) == 1 else f"gave {tuple(x.shape)}"
        return attempt(lambda: codec.decode(Encoded.load(bad)), check)
    return n, apart(lambda: [(k, why) for k in range(n) if (why := one(k))])


@job(400, 60, "requests to the live page: foreign hosts, origins and sites, broken lines, silence")
def live_page(n, folder):
    tier = AudioTier(AudioTierConfig(hidden_size=8, n_layers=1, sample_rate=4000, controls=("rate",), cond_size=1)).eval()

    def work():
        player, failed = LivePlayer(tier, block=0.02, seed=1), []
        silent = []
        for k in range(n):
            sent, allowed = damage.request(player.server.server_port, player.token, k)
            with socket.create_connection(("127.0.0.1", player.server.server_port), timeout=15) as line:
                try:
                    line.sendall(sent)
                    line.shutdown(socket.SHUT_WR)
                    told = line.makefile("rb").read()
                except OSError: told = b""
            if not allowed and told.startswith((b"HTTP/1.0 200", b"HTTP/1.1 200")): failed.append((k, sent[:200]))
            if k % 4 == 0: silent.append(socket.create_connection(("127.0.0.1", player.server.server_port)))
            if not allowed and player.values["rate"] != 0.5: failed.append((k, "turned the knob"))
            player.values["rate"] = 0.5
        player.next()  # the first may be the stream's first, which is 5 ms shorter
        if len(player.next()) != 320: failed.append(("after", "no block"))
        if threading.active_count() > 40: failed.append(("threads", str(threading.active_count())))
        player.close()
        return failed
    return n, apart(work)


@job(20, 3, "kill -9 during prepare")
def kill_prepare(n, folder): return killed("prepare", n, folder)


@job(20, 3, "kill -9 during a first training")
def kill_training(n, folder): return killed("train", n, folder)


@job(20, 3, "kill -9 during training anew with other settings")
def kill_retraining(n, folder): return killed("train_again", n, folder)


@job(20, 3, "kill -9 during sampling")
def kill_sampling(n, folder): return killed("sample", n, folder)


@job(20, 0, "kill -9 during a leaderboard")
def kill_leaderboard(n, folder): return killed("leaderboard", n, folder)


WRITERS = ("prepare", "train", "train_again", "sample")


@job(20, 2, "two writers in one folder")
def two_writers(n, folder):
    work, failed = Work(folder), []
    right = {name: work.whole(name)[0] for name in WRITERS[:min(n, 4)]}
    for k in range(n):
        name = WRITERS[k % 4]
        out = folder / f"{name}_{k}"
        work.begin(name, out)
        both = [in_child(getattr(work, name), out) for _ in range(2)]
        for p in both: p.join()
        codes = sorted(p.exitcode for p in both)
        if codes not in ([0, 0], [0, 3]) or work.left(name, out) != right[name]: failed.append((f"{name} {k}", f"exit codes {codes}"))
    return n, failed


@job(40, 2, "no room: files that may not grow further, at every writer")
def no_room(n, folder):
    work, failed = Work(folder), []
    right = {name: work.whole(name)[0] for name in WRITERS[:min(n, 4)]}
    for k in range(n):
        name, rng = WRITERS[k % 4], random.Random(k)
        out = folder / f"{name}_{k}"
        work.begin(name, out)
        before = work.left(name, out)
        p = in_child(getattr(work, name), out, limit=rng.choice([0, 100, 1000, 4000, 9000, 20000]))
        p.join()
        if p.exitcode not in (0, 3): failed.append((f"{name} {k}", f"exit code {p.exitcode}"))
        kept = work.left(name, out)
        if any(kept.get(f) != v for f, v in before.items()) and kept != right[name]: failed.append((f"{name} {k}", "lost what was there"))
        p = in_child(getattr(work, name), out)
        p.join()
        if p.exitcode or work.left(name, out) != right[name]: failed.append((f"{name} {k}", "does not go on when there is room again"))
    return n, failed


@job(20, 0, "a full disk (of 1 MB), at every writer")
def full_disk(n, folder):
    disk = folder / "disk"
    disk.mkdir()
    if os.system(f"mount -t tmpfs -o size=1m none {disk} 2>/dev/null"): return 0, []  # only root may
    try:
        work, failed = Work(folder), []
        for k in range(n):
            name, rng = WRITERS[k % 4], random.Random(k)
            (disk / "ballast").write_bytes(bytes(rng.randrange(900_000, 1_040_000)))
            p = in_child(getattr(work, name), disk / "out")
            p.join()
            if p.exitcode not in (0, 3): failed.append((f"{name} {k}", f"exit code {p.exitcode}"))
            os.system(f"rm -rf {disk}/* {disk}/.[!.]*")
        return n, failed
    finally: os.system(f"umount {disk}")


@job(8, 4, "a folder that cannot be written, at every writer")
def read_only(n, folder):
    work, failed = Work(folder), []
    (folder / "file").write_text("in the way")
    for k in range(n):
        name, out = WRITERS[k % 4], [folder / "file" / "run", Path("/proc/none/run")][k // 4 % 2]
        p = in_child(getattr(work, name), out)
        p.join()
        if p.exitcode != 3: failed.append((f"{name} {out}", f"exit code {p.exitcode}"))
    return n, failed


# ---- the same again ----


@job(12, 3, "same seed, same bytes: batch sizes, runs, jobs")
def same_bytes(n, folder):
    work, failed, right = Work(folder), [], None
    book = codebooks.VQVAE(SMALL).eval()
    prior = code_maps.UnigramPrior(code_maps.PriorConfig((10, 4), 16, 2, book.codebook_hash)).eval()
    voice = vocoders.ISTFTVocoder(vocoders.ISTFTConfig(MEL, 8, 16, 1)).eval()
    code_maps.Cascade(prior, book, voice, ["rain", "pops"]).save_pretrained(folder / "cascade")
    for k in range(n):
        out = folder / f"out_{k}"
        for model in (work.model, folder / "cascade"):
            p = in_child(verb, "sample", model, "--out", out / model.name, "--per-class", "6", "--batch", 1 + 5 * k % 12, "--quiet")
            p.join()
        os.environ["FOLEYBOOK_CACHE"] = str(out / "cache")
        p = in_child(verb, "prepare", work.data, "--seconds", "0.5", "--out", out / "p", "--jobs", 1 + k % 3, "--quiet")
        p.join()
        made = content(out, "*.wav", "rows.bin")
        right = right or made
        if p.exitcode or made != right or len(made) != 25: failed.append((str(k), f"{len(made)} files, some differ"))
    return n, failed


@job(2000, 300, "sounds one after the other, in flat memory")
def flat_memory(n, folder):
    def make():
        model = tiny_run.Tiny(tiny_run.TinyConfig()).eval()
        page = os.sysconf("SC_PAGE_SIZE")

        def now(): return int(Path("/proc/self/statm").read_text().split()[1]) * page / 2**20
        for k in range(n):
            made = model.sample("hiss", n=1, seconds=0.5, seed=k, progress=False)
            made.save(folder / "out", append=bool(k % 100))
            if k == n // 5: first = now()
        return [("memory", f"grew from {first:.0f} to {now():.0f} MB")] if now() > first + 30 else []
    return n, apart(make)


@job(3, 1, "one of two processes dies: the other ends within a minute and says so")
def dying_rank(n, folder):
    failed = []
    for k in range(n):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]

        said = folder / f"said_{k}"

        def run(rank):
            os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
            try:
                tiny_run.recipe(steps=16, checkpoint_steps=3, device="cpu", **(dict(die=7 + k % 8) if rank else {})).train(None, folder / f"run_{k}", progress=False)
            except BaseException as e:
                said.write_text(f"{type(e).__name__}: {cli.explain(e)}")
                os._exit(3)
            os._exit(0)
        both = [fork.Process(target=run, args=(rank,)) for rank in range(2)]
        for p in both: p.start()
        both[1].join()
        died = time.time()
        both[0].join(60)
        if both[0].is_alive(): failed.append((str(k), "still waits after a minute"))
        elif both[0].exitcode == 0 or not said.exists(): failed.append((str(k), f"exit code {both[0].exitcode}, no message"))
        print(f"    ended {time.time() - died:.0f} s later: {said.read_text()[:120] if said.exists() else ''}", flush=True)
        for p in both: p.kill()
    return n, failed


def run(name, n):
    "One job: a row for the table"
    start = time.time()
    with tempfile.TemporaryDirectory() as folder:
        tried, failed = JOBS[name]["run"](n, Path(folder))
    row = dict(job=name, what=JOBS[name]["what"], tried=tried, survived=tried - min(tried, len(failed)), seconds=round(time.time() - start))
    return row, failed


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("jobs", nargs="*", help=f"which (default: all): {', '.join(JOBS)}")
    p.add_argument("--n", type=int, help="tries of each job (default: as many as the long form has)")
    p.add_argument("--share", type=float, default=1.0, help="this share of the tries of the long form")
    p.add_argument("--out", help="write the table to this JSON file; rows of jobs that are not run are kept")
    args, rows = p.parse_args(), {}
    torch.set_num_threads(1)
    for name in args.jobs or JOBS:
        n = args.n or max(1, round(JOBS[name]["long"] * args.share))
        rows[name], failed = run(name, n)
        print(f"{name:16} {rows[name]['survived']:5} of {rows[name]['tried']:5} survived, {rows[name]['seconds']} s", flush=True)
        for what, why in failed[:20]: print(f"    {what}: {why}", flush=True)
        if args.out:
            kept = {r["job"]: r for r in json.loads(Path(args.out).read_text())["rows"]} if Path(args.out).exists() else {}
            told = [(kept | rows)[name] for name in JOBS if name in kept | rows]
            Path(args.out).write_text(json.dumps(dict(made=time.strftime("%Y-%m-%d"), rows=told), indent=1) + "\n")
    return sum(r["tried"] - r["survived"] for r in rows.values()) > 0


if __name__ == "__main__":
    sys.exit(main())

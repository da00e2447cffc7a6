"Benchmarks: one shape of rows, ratios that follow from the times, a table and a page that say what the file says"
import importlib
import json
import re
import sys
import time
from pathlib import Path

import pytest
import stage
import torch

from foleybook.apps import cli
from foleybook.audio_features import MelConfig
from foleybook.codebooks import VQVAEConfig
from foleybook.spectrogram_vqgan import VQGANConfig
from foleybook.spectrogram_diffusion import FlowConfig, MelVAEConfig, UNetConfig

FOLDER = Path(__file__).parent / "benchmarks"
KEYS = {"room", "job", "reference", "reference_time", "ours", "unit", "ratio", "exactness", "share"}
TINY = dict(code_shape=(4, 6), n_classes=10, channels=8, res_channels=8, kernel_size=3, n_blocks=1, n_res_blocks=1, n_heads=2,
            attention_width=8, dropout=0.0, class_dropout=0.1)
SMALL_VQGAN = VQGANConfig.preset("vggsound", widths=(8, 8, 8, 8, 8), groups=8, z_channels=8, dim=8)
SMALL_VQVAE = VQVAEConfig(MelConfig.preset("dcase2023"), freq_strides=(4, 2), time_strides=(4, 2), kernels=(4,), width=8, res_blocks=1, dim=8)
SHORT = dict(code_shape=(3, 5), n_codes=9, width=16, n_layers=1, n_heads=2)
FLOW = FlowConfig(channels=8, width=16, heads=2, depth=1, n_classes=2)
UNET = UNetConfig(block_out_channels=(8, 16), norm_num_groups=4, layers_per_block=1, down_block_types=("DownBlock2D", "AttnDownBlock2D"),
                  up_block_types=("AttnUpBlock2D", "UpBlock2D"))
SIZES = {  # so small that the numbers mean nothing
    "audio_features": dict(n=4, seconds=0.5),
    "diffwave": dict(rounds=1, compiled=False, second=2048, sizes=dict(channels=8, skip_channels=8, n_layers=4, cycle=2, hidden=16, step_out=16),
                     wide=(dict(channels=16),)),
    "evaluation": dict(widths=((40, 16),), rounds=1, clips=10, times=2),
    "multitier_rnn": dict(rounds=1, samples=20, big=(16, 2), quick=(8, 2), live=(8, 1), batch=(2, 8), turns=1),
    "on_device": dict(rounds=1, batches=(1,), steps=4, published=SHORT, snail=TINY | dict(code_shape=(3, 4)), flow=FLOW, unet=UNET, columns=1,
                      vae=MelVAEConfig(channels=8, width=8, hidden=8, depth=1), backend="eager"),
    "pixelsnail": dict(published=False, rounds=1, rows=1, quick=TINY, foley=TINY, attention=(4, 6), rows_at_once=dict(c=8, layers=2)),
    "sashimi": dict(rounds=1, second=256, length=512, channels=4, sizes=dict(d_model=4, n_layers=1, length=256), speaking=(64, 8)),
    "sound_data": dict(n=8, many=8, rounds=2),
    "spectrogram_vqgan": dict(rounds=1, published=SMALL_VQGAN, batch=2, frames=32, long=2600, vqvae=SMALL_VQVAE),
    "training": dict(rounds=1, batches=(1,), settings=TINY | dict(class_dropout=0.0)),
    "spectrogram_diffusion": dict(sizes=(16,), rounds=1, seconds=0.3, unet=UNetConfig(
        block_out_channels=(8, 16), norm_num_groups=4, layers_per_block=1, down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D")), config=FlowConfig(channels=8, width=16, heads=2, depth=1, n_classes=2),
        vae=MelVAEConfig(channels=8, width=8, hidden=8, depth=1)),
    "transformer": dict(published=False, rounds=1, columns=2, quick=SHORT, foley=SHORT),
    "vocoders": dict(seconds=0.2, kinds=("HiFi-GAN V2",), rounds=1, long=2),
}


@pytest.fixture
def in_folder(monkeypatch):
    "Benchmarks can be imported; no data but made-up ones; the machine is not measured"
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setenv("FOLEYBOOK_DATA", "none")
    measure = importlib.import_module("_measure")
    monkeypatch.setattr(measure, "ceiling", lambda: dict(gflops=50.0, gflops_bf16=100.0, gbytes_per_s=10.0))
    yield measure
    for name in (*SIZES, "_measure", "_bench"):
        sys.modules.pop(name, None)


def check(rows):
    assert rows
    for r in rows:
        assert r.keys() == KEYS - {"room"}, r
        assert isinstance(r["job"], str) and isinstance(r["unit"], str) and r["ours"] > 0, r
        assert (r["reference"] is None) == (r["reference_time"] is None) == (r["ratio"] is None), r
        assert r["ratio"] is None or r["ratio"] == pytest.approx(r["reference_time"] / r["ours"]), r
        assert r["exactness"] is None or isinstance(r["exactness"], str) and "nan" not in r["exactness"], r
        assert r["share"] is None or r["share"] > 0, r
    assert len({r["job"] + str(r["reference"]) for r in rows}) == len(rows), "two rows of one name"
    json.dumps(rows, allow_nan=False)


def test_every_benchmark_is_tried():
    assert SIZES.keys() == {f.stem for f in FOLDER.glob("[!_]*.py")}


@pytest.mark.parametrize("room", SIZES)
def test_rows_of_a_room(in_folder, room):
    check(importlib.import_module(room).benchmarks(**SIZES[room]))


def test_both_trainings_come_to_the_same_weights(in_folder):
    for r in importlib.import_module("training").benchmarks(**SIZES["training"]):
        assert float(re.search(r"steps: (\S+) of", r["exactness"])[1]) < 1e-4, r


def test_turns_and_medians(in_folder):
    now, turns = [0.0], []

    def way(name, durations):
        def run():
            turns.append(name)
            now[0] += durations[turns.count(name) - 1]
            return f"{name}{turns.count(name)}"

        return run

    a, b = way("a", [50, 1, 9, 2]), way("b", [90, 8, 7, 60])
    times, results = in_folder.interleaved(a, b, rounds=3, clock=lambda: now[0])
    assert "".join(turns) == "abababab" and times == [2, 8] and results == ["a1", "b1"]


def test_share_is_of_what_the_machine_does(in_folder):
    share = in_folder.share
    assert share(2.0, flops=25e9) == pytest.approx(0.25) and share(2.0, flops=25e9, dtype=torch.bfloat16) == pytest.approx(0.125)
    assert share(0.5, read=1e9) == pytest.approx(0.2)
    a = torch.randn(8, 16)
    assert in_folder.flops_of(lambda: a @ a.T) == 2 * 8 * 8 * 16


def test_difference_says_what_was_found(in_folder):
    assert in_folder.difference([1.0, 2.0], [1.0, 2.0]) == "equal, bit for bit"
    assert in_folder.difference(torch.tensor([1.0, 2.5]), torch.tensor([1.0, 2.0])) == "largest difference 5.0e-01 of 2"


TOY = """from _measure import interleaved, row
def benchmarks():
    (a, b), (x, y) = interleaved(lambda: sum(range(20000)), lambda: sum(i for i in range(20000)), rounds=3)
    return [row("a sum", a * 1e3, "a | generator_", b * 1e3, exactness="equal" if x == y else "not equal"), row("alone", 3., None, None)]
"""


@pytest.fixture
def kept(tmp_path, capsys, in_folder, monkeypatch):
    "What `foleybook bench` printed and wrote for a toy, with a ceiling of its own"
    bench = importlib.import_module("_bench")
    monkeypatch.setattr(bench, "machine_ceiling", lambda: dict(gflops=50.0, gflops_bf16=20.0, gbytes_per_s=10.0))
    folder, threads = tmp_path / "benchmarks", torch.get_num_threads()
    folder.mkdir()
    (folder / "toy.py").write_text(TOY)
    (folder / "_other.py").write_text("raise ValueError('not a benchmark')")
    rows = bench.run(folder=folder, out=str(tmp_path / "rows.json"))
    assert torch.get_num_threads() == threads and str(folder) not in sys.path
    return rows, capsys.readouterr().out, json.loads((tmp_path / "rows.json").read_text())


def test_table_and_file_agree(kept):
    rows, printed, file = kept
    assert file["rows"] == rows and all(r.keys() == KEYS and r["room"] == "toy" for r in rows)
    check([{k: v for k, v in r.items() if k != "room"} for r in rows])
    lines = [re.split(r"\s{2,}", line) for line in printed.split("\ntoy\n")[1].splitlines()]
    assert lines[0] == ["job", "ours", "reference", "unit", "ratio", "share", "exactness", "reference is"]
    r = rows[0]
    assert lines[1] == ["a sum", f"{r['ours']:.4g}", f"{r['reference_time']:.4g}", "ms", f"{r['ratio']:.4g}", "-", "equal", r["reference"]]
    assert lines[2] == ["alone", "3", "-", "ms", "-", "-", "-", "-"]


def test_machine_is_told(kept):
    _, printed, file = kept
    machine = file["machine"]
    assert machine["threads"] == 1 and machine["torch"] == torch.__version__ and machine["made"] == time.strftime("%Y-%m-%d")
    assert machine["torch_kernels"] == torch.backends.cpu.get_cpu_capability() and machine["features"]
    assert " ".join(machine["features"]) in printed and "2.5 times slower" in printed
    info = Path("/proc/cpuinfo")
    assert not info.exists() or set(machine["features"]) <= {*info.read_text().split(), machine["torch_kernels"].lower()}


def test_page_is_made(kept):
    rows, _, file = kept
    page = stage.benchmarks(file, ["toy"])
    assert page.startswith("# Benchmarks\n") and "## toy" in page and "](toy.ipynb)" in page and "](toy.ipynb)" not in stage.benchmarks(file)
    assert file["machine"]["made"] in page and "bf16 is the slower" in page and "a \\| generator\\_" in page
    r = rows[0]
    assert f"| {r['ours']:.4g} | {r['reference_time']:.4g} | ms | {r['ratio']:.3g} |" in page


def test_kept_results_make_a_page():
    kept = json.loads((FOLDER.parent.parent / "docs" / "benchmarks.json").read_text())
    assert {r["room"] for r in kept["rows"]} <= SIZES.keys() and all(r.keys() == KEYS for r in kept["rows"])
    check([{k: v for k, v in r.items() if k != "room"} for r in kept["rows"]])
    page = stage.benchmarks(kept)
    assert all(f"\n## {r['room']}".replace("_", "\\_") in page for r in kept["rows"]) and page.count("\n|") > len(kept["rows"])


def test_rooms_that_are_not_asked_for_stay(tmp_path, kept, monkeypatch):
    bench, out = importlib.import_module("_bench"), tmp_path / "rows.json"
    (tmp_path / "benchmarks" / "other.py").write_text(TOY.replace("a sum", "another sum"))
    before = json.loads(out.read_text())
    before["machine"]["made"] = "2020-01-01"
    del before["days"]
    before["ceiling"]["gflops"] = 90.0
    out.write_text(json.dumps(before))
    rows = bench.run("other", tmp_path / "benchmarks", str(out))
    file, today = json.loads(out.read_text()), time.strftime("%Y-%m-%d")
    assert file["rows"] == [*rows, *before["rows"]] and file["days"] == {"toy": "2020-01-01", "other": today}
    assert file["ceiling"] == dict(gflops=90.0, gflops_bf16=20.0, gbytes_per_s=10.0)
    assert f"Measured on {today}." in stage.benchmarks(file) and "Measured on 2020-01-01." in stage.benchmarks(file)
    bench.run("toy", tmp_path / "benchmarks", str(out))
    assert [r["room"] for r in json.loads(out.read_text())["rows"]] == ["other", "other", "toy", "toy"]
    file["machine"]["processor"] = "Another"
    out.write_text(json.dumps(file))
    with pytest.raises(ValueError, match="another machine or torch .Another"):
        bench.run("other", tmp_path / "benchmarks", str(out))
    bench.run("", tmp_path / "benchmarks", str(out))
    assert json.loads(out.read_text())["days"] == {"toy": today, "other": today}


def test_rooms_may_be_named(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="no benchmark nonesuch here. It holds audio_features"):
        cli.bench("vocoders, nonesuch", folder=str(FOLDER))
    with pytest.raises(ValueError, match="Run from a checkout"):
        cli.bench(folder=str(tmp_path))


def test_a_device_has_its_rooms(in_folder, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="vocoders: measured on a processor only. On cuda there is on_device"):
        importlib.import_module("_bench").run("vocoders", FOLDER, device="cuda")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="no such GPU"):
            cli.bench("on_device", folder=str(FOLDER), device="cuda")


@pytest.mark.cuda
def test_rows_on_a_gpu(in_folder):
    check(importlib.import_module("on_device").benchmarks(device="cuda", **SIZES["on_device"] | dict(backend="inductor")))


def test_ceiling_is_measured(in_folder):
    found = importlib.import_module("_bench").machine_ceiling()
    assert found.keys() == {"gflops", "gflops_bf16", "gbytes_per_s"} and all(0.01 < v < 1e5 for v in found.values())

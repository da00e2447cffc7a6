"""What `foleybook bench` runs: every benchmark of this folder on one thread, a table of what was found, and a JSON file.

`python _bench.py` does the same.
"""
import json
import os
import sys
import time
from pathlib import Path


# "gflops" of float32 and "gflops_bf16" of bf16 products, "gbytes_per_s" read from
# memory
def machine_ceiling(device="cpu") -> dict:
    "What one thread of this machine, or its graphics card, can do: the best of some tries"
    import torch

    gpu = torch.device(device).type != "cpu"
    def timed(f):
        if not gpu: return _timed(f)
        torch.cuda.synchronize(device)
        start = time.perf_counter()
        f()
        torch.cuda.synchronize(device)
        return time.perf_counter() - start
    def best(f, n): return min(timed(f) for _ in range(n))
    threads, size = torch.get_num_threads(), 8192 if gpu else 1024
    a, b = (torch.randn(size, size, device=device) for _ in range(2))
    big = torch.randn(32 << 20, device=device)
    c, d, work = a.bfloat16(), b.bfloat16(), 2 * size**3 / 1e9
    torch.set_num_threads(1)
    try:
        return dict(gflops=work / best(lambda: a @ b, 8),
                    gflops_bf16=work / best(lambda: c @ d, 4),
                    gbytes_per_s=big.nbytes / best(big.sum, 8) / 1e9)
    finally:
        torch.set_num_threads(threads)


def _timed(f):
    start = time.process_time()
    f()
    return time.process_time() - start


_FEATURES = set("avx avx2 fma avx512f avx512_vnni avx512_bf16 avx512_fp16 avx_vnni "
                "amx_tile amx_int8 amx_bf16 asimd asimdhp bf16 i8mm sve "
                # of processors, those that matter to products and loops
                "sve2".split())

def _machine(device="cpu"):
    "What the rows of `bench` were measured with: what the processor says that it can do"
    import torch

    info = Path("/proc/cpuinfo")
    lines = ([line.partition(":")[::2] for line in info.read_text().splitlines()]
             if info.exists() else [])
    told = {k.strip().lower(): v.strip() for k, v in lines}
    found = _FEATURES & set((told.get("flags") or told.get("features") or "").split())
    capability = torch.backends.cpu.get_cpu_capability()
    card = {} if torch.device(device).type == "cpu" else dict(
        device=torch.cuda.get_device_name(device))
    return dict(card, made=time.strftime("%Y-%m-%d"),
                processor=told.get("model name", "unknown"),
                cores=os.cpu_count(),
                features=sorted(found) or [capability.lower()], torch=torch.__version__,
                torch_kernels=capability, threads=1)


def _bench_head(
    machine: dict,  # of `_machine`
    ceiling: dict,  # of `machine_ceiling`
):
    "Two lines: on what machine, and what it can do"
    gain = ceiling["gflops_bf16"] / ceiling["gflops"]
    return (f"{machine['cores']} cores, {machine['threads']} thread used, torch "
            f"{machine['torch']} ({machine['torch_kernels']}), has "
            f"{' '.join(machine['features'])}"
            f"\nceiling of {machine.get('device', 'the thread')}: "
            f"{ceiling['gflops']:.0f} GFLOP/s in float32, {ceiling['gflops_bf16']:.0f} "
            "in bf16 "
            f"({f'{gain:.1f} times faster' if gain >= 1 else f'{1 / gain:.1f} times slower'}), {ceiling['gbytes_per_s']:.1f} GB/s")


def _bench_table(
    rows: list,  # of benchmarks, see tests/benchmarks/_measure.py
):
    "Rows as aligned text; '-' where there is nothing to state"
    def told(v, form): return "-" if v is None else format(v, form)
    cells = [("job", "ours", "reference", "unit", "ratio", "share", "exactness",
              "reference is")]
    for r in rows:
        cells.append((r["job"], told(r["ours"], ".4g"),
                      told(r["reference_time"], ".4g"), r["unit"],
                      told(r["ratio"], ".4g"),
                      told(r["share"], ".1%"), r["exactness"] or "-",
                      r["reference"] or "-"))
    widths = [max(map(len, column)) for column in zip(*cells)]
    lines = ["  ".join(f"{v:{'>' if 1 <= k <= 5 and k != 3 else '<'}{w}}"
                       for k, (v, w) in enumerate(zip(c, widths))) for c in cells]
    return "\n".join(line.rstrip() for line in lines)


def _bench_rows(
    file: Path,  # a benchmark
    device=None,  # where its networks run; None: it is not asked, a processor
):
    "The rows of one file, with its room, measured on one thread"
    from importlib.util import module_from_spec, spec_from_file_location
    import torch

    spec, threads = spec_from_file_location(f"benchmark_{file.stem}",
                                            file), torch.get_num_threads()
    module, how = module_from_spec(spec), {} if device is None else dict(device=device)
    sys.path.insert(0, str(file.parent))  # for _measure.py beside it
    torch.set_num_threads(1)
    try:
        spec.loader.exec_module(module)
        return [dict(room=file.stem, **row) for row in module.benchmarks(**how)]
    finally:
        sys.path.remove(str(file.parent))
        torch.set_num_threads(threads)


def _kept_rows(
    file: Path,  # written before, or not there
    machine: dict,  # of `_machine`
    asked: list,  # rooms that are measured now
):
    "What a file says of other rooms, if it is of this machine: rows, days, ceiling"
    if not file.is_file():
        return [], {}, {}
    before = json.loads(file.read_text(encoding="utf-8"))
    if {**before["machine"], "made": ""} != {**machine, "made": ""}:
        raise ValueError(f"{file}: measured on another machine or torch "
                         f"({before['machine']['processor']}, torch "
                         f"{before['machine']['torch']}). Name no rooms, so that all "
                         "are measured, or write another file.")
    rows = [r for r in before["rows"] if r["room"] not in asked]
    days = before.get("days", {})
    return (rows, {r["room"]: days.get(r["room"], before["machine"]["made"])
                   for r in rows}, before["ceiling"])


def run(
    name="",  # rooms or the ends of their names, with commas between; all, if none
    folder=Path(__file__).parent,  # where the benchmarks are
    # write machine, ceiling and rows to this JSON file as well; where rooms are named,
    # it keeps those of the others
    out="",
    device="cpu",  # where networks run; on another than cpu, the rooms that can
):
    "Measure ours against the reference in one run, and print a table"
    from foleybook.core.files import write_text
    from foleybook.core.generator import peak_memory_mb

    files = {f.stem: f for f in sorted(Path(folder).glob("[!_]*.py"))}
    # noqa: E731
    whole = lambda n: next((f for f in files if f == n or f.endswith(f"_{n}")), n)
    asked = [whole(n.strip()) for n in name.split(",") if n.strip()]
    absent = [n for n in asked if n not in files]
    if absent or not files:
        there = f"It holds {', '.join(files)}" if files else "Run from a checkout, or give --folder"
        raise ValueError(f"{folder}: no benchmark {', '.join(absent) or 'file'} here. "
                         f"{there}.")
    at = None if device == "cpu" else device
    if at:
        can = [n for n, f in files.items() if "def benchmarks(device=" in f.read_text()]
        if wrong := [n for n in asked if n not in can]:
            raise ValueError(f"{', '.join(wrong)}: measured on a processor only. On "
                             f"{device} there is {', '.join(can)}.")
        asked = asked or can
    machine, rows, days, kept = _machine(device), [], {}, ([], {}, {})
    if out and asked:
        kept = _kept_rows(Path(out), machine, asked)
    ceiling = machine_ceiling(*filter(None, [at]))
    best = {k: max(v, kept[2].get(k, 0)) for k, v in ceiling.items()}
    print(_bench_head(machine, ceiling))
    for room in asked or files:
        found = _bench_rows(files[room], at)
        print(f"\n{room}\n{_bench_table(found)}", flush=True)
        rows, days[room] = rows + found, machine["made"]
        if out:
            all_ = sorted([*kept[0], *rows], key=lambda r: r["room"])
            told = dict(machine=machine, ceiling=best, days=kept[1] | days, rows=all_)
            write_text(Path(out), json.dumps(told, indent=1) + "\n")
    print(f"\npeak memory {peak_memory_mb():.0f} MB")
    return rows


if __name__ == "__main__":
    run(*sys.argv[1:2])

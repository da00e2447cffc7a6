"""The one way in which all benchmarks here measure, and the one shape of their rows.

Ours and the reference take turns, so that whatever else the machine does slows both, and the medians are compared. Times are
processor times, so that work in other threads counts; `foleybook bench` sets one thread.
"""
import statistics
import time
from functools import cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from _bench import machine_ceiling

OWN_LENGTH = "the sound's own length, so ratio is times real time"


def interleaved(*ways, rounds=5, warm=True, clock=time.process_time):
    "Median seconds of one call of each way, and what each gave at its first call; a warm first round is not counted"
    times, results = [[] for _ in ways], [None] * len(ways)
    for k in range(rounds + warm):
        for i, f in enumerate(ways):
            start = clock()
            result = f()
            took = clock() - start
            if k == 0:
                results[i] = result
            if k >= warm:
                times[i].append(took)
    return [statistics.median(t) for t in times], results


def clock_of(device):
    "Processor time on a processor; elsewhere the time by the clock when all that was asked for is done"
    if torch.device(device).type == "cpu":
        return time.process_time
    def clock():
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return clock


def row(job, ours, reference, reference_time, unit="ms", exactness=None, share=None):
    """One row of a benchmark; `foleybook bench` adds the room.

    job: what is done; ours, reference_time: medians, in `unit`; reference: what ours is compared with, in words, or None;
    exactness: the equality checked in the same run, and the difference found; share: of this machine's ceiling, see `share`.
    """
    ratio = None if reference_time is None else reference_time / ours
    return dict(job=job, ours=ours, reference=reference, reference_time=reference_time, unit=unit, ratio=ratio,
                exactness=exactness, share=share)


ceiling = cache(machine_ceiling)


def share(seconds, *, flops=None, read=None, dtype=torch.float32):
    "Share of the products per second (`flops` made), or of the memory bandwidth (`read` bytes), that one thread can do"
    if read is not None:
        return read / 1e9 / seconds / ceiling()["gbytes_per_s"]
    return flops / 1e9 / seconds / ceiling()["gflops_bf16" if dtype == torch.bfloat16 else "gflops"]


def flops_of(f):
    "Floating-point operations of the products and convolutions of one call"
    with FlopCounterMode(display=False) as counter:
        f()
    return counter.get_total_flops()


def difference(ours, reference, what="largest difference"):
    "In words: how far two results are from each other, beside the largest value"
    ours, reference = torch.as_tensor(ours), torch.as_tensor(reference)
    if torch.equal(ours, reference):
        return "equal, bit for bit"
    return f"{what} {(ours - reference).abs().max():.1e} of {reference.abs().max():.2g}"

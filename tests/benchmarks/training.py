"""What a training step costs besides the network: optimiser, averaged weights and log, and what is left of it in a whole step.

Both ways train a small PixelSNAIL without dropout on the same batches, so that their weights can be compared in the end.
"""
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median

import torch
from _measure import flops_of, interleaved, row, share
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.optimizer import OptimWrapper

from foleybook.pixelsnail import PixelSNAIL, PixelSNAILConfig
from foleybook.train.checkpoints import History
from foleybook.training import EMA, GradientClip, MixedPrecision, StepDL, StepEpochs, StepLearner

SMALL = dict(code_shape=(10, 43), n_classes=10, channels=64, res_channels=64, kernel_size=3, n_blocks=2, n_res_blocks=3,
             n_heads=4, attention_width=64, dropout=0., attention_dropout=0.)


class Clock:
    "Processor time spent in some calls"
    def __init__(self): self.spent = 0.

    def around(self, f):
        def timed(*args, **kwargs):
            began = time.process_time()
            try: return f(*args, **kwargs)
            finally: self.spent += time.process_time() - began
        return timed


class PlainEMA(Callback):
    "The averaged weights, one tensor after the other"
    order = 20

    def before_fit(self): self.average = {k: v.detach().clone() for k, v in self.model.state_dict().items()}

    def after_step(self):
        for k, v in self.model.state_dict().items(): self.average[k].lerp_(v, .001)


class PlainLog(Callback):
    "The loss of every step as a number"
    order = 95

    def before_fit(self): self.rows = []
    def after_batch(self): self.rows.append((self.train_iter, self.loss.item(), self.opt.hypers[-1]["lr"]))


def _learner(folder, batch, plain, settings):
    "A small PixelSNAIL on random codes, and a clock on what is not the network"
    torch.manual_seed(0)
    codes = torch.randint(512, (64, *settings["code_shape"]))
    items = [(c, torch.tensor(i % 10), c) for i, c in enumerate(codes)]
    loader = partial(DataLoader, num_workers=0, n_inp=2)
    dls = DataLoaders(StepDL(loader(items, bs=batch), 8), loader(items[:1], bs=1), device=torch.device("cpu"))
    cbs = [PlainEMA(), PlainLog()] if plain else [EMA(.999), History(folder, 10)]
    opt = partial(OptimWrapper, opt=torch.optim.AdamW, **(dict(foreach=False) if plain else dict(fused=True)))
    learn = StepLearner(dls, PixelSNAIL(PixelSNAILConfig(**settings)), torch.nn.CrossEntropyLoss(), opt_func=opt, lr=1e-3,
                        cbs=[StepEpochs(), MixedPrecision("float32"), GradientClip(1.), *cbs])
    learn.create_opt()
    clock = Clock()
    learn.opt.step = clock.around(learn.opt.step)
    for cb, event in zip(cbs, ("after_step", "after_batch")): setattr(cb, event, clock.around(getattr(cb, event)))
    learn.recorder.after_batch = clock.around(learn.recorder.after_batch)
    return learn, clock


def _fit(learn, clock, spent):
    "Eight steps; time spent outside the network goes to `spent`"
    clock.spent = 0.
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    spent.append(1e3 * clock.spent / 8)
    return torch.cat([p.detach().flatten().clone() for p in learn.model.parameters()])


def _step(batch, settings):
    "A step forward and back of the network alone"
    model = PixelSNAIL(PixelSNAILConfig(**settings)).train()
    codes, cond = torch.randint(512, (batch, *settings["code_shape"])), torch.arange(batch)
    return lambda: torch.nn.functional.cross_entropy(model(codes, cond), codes).backward()


def _far(a, b):
    "Distance beside length: where a gradient is zero but for rounding, Adam moves single weights by the learning rate"
    return ((a - b).norm() / b.norm()).item()


def benchmarks(rounds=3, batches=(1, 8), settings=SMALL):
    "Rows, see `_measure.row`"
    rows = []
    for batch in batches:
        with tempfile.TemporaryDirectory() as folder:
            ways, spent = [_learner(Path(folder), batch, plain, settings) for plain in (False, True)], ([], [])
            wholes, weights = interleaved(*(partial(_fit, *way, log) for way, log in zip(ways, spent)), rounds=rounds)
        (ours, plain), (whole, plain_whole) = (median(log[1:]) for log in spent), (1e3 * t / 8 for t in wholes)
        same = f"weights after eight steps: {_far(*weights):.0e} of their length apart"
        rows.append(row(f"optimiser, EMA and log of a small PixelSNAIL step, batch {batch}", ours,
                        "AdamW and average tensor by tensor, a number from the device each step", plain, exactness=same))
        rows.append(row(f"whole step of that PixelSNAIL, batch {batch}", whole, "the same step with the parts of the row above",
                        plain_whole, exactness=same, share=share(whole / 1e3, flops=flops_of(_step(batch, settings)))))
    return rows

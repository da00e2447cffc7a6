"""What a training step costs besides the network: optimiser, averaged weights and log, beside the plain way in the same run.

Processor time, alternating between both ways, medians. The share of the step is that of the whole step of a small PixelSNAIL.
"""
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median

import torch
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.optimizer import OptimWrapper

from foleybook.pixelsnail import PixelSNAIL, PixelSNAILConfig
from foleybook.training import EMA, GradientClip, History, MixedPrecision, StepDL, StepEpochs, StepLearner

SMALL = dict(code_shape=(10, 43), n_classes=10, channels=64, res_channels=64, kernel_size=3, n_blocks=2, n_res_blocks=3,
             n_heads=4, attention_width=64, attention_dropout=0.)


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


def _learner(folder, batch, plain):
    "A small PixelSNAIL on random codes, and a clock on what is not the network"
    torch.manual_seed(0)
    codes = torch.randint(512, (64, *SMALL["code_shape"]))
    items = [(c, torch.tensor(i % 10), c) for i, c in enumerate(codes)]
    loader = partial(DataLoader, num_workers=0, n_inp=2)
    dls = DataLoaders(StepDL(loader(items, bs=batch, shuffle=True), 8), loader(items[:1], bs=1), device=torch.device("cpu"))
    cbs = [PlainEMA(), PlainLog()] if plain else [EMA(.999), History(folder, 10)]
    opt = partial(OptimWrapper, opt=torch.optim.AdamW, **(dict(foreach=False) if plain else dict(fused=True)))
    learn = StepLearner(dls, PixelSNAIL(PixelSNAILConfig(**SMALL)), torch.nn.CrossEntropyLoss(), opt_func=opt, lr=1e-3,
                        cbs=[StepEpochs(), MixedPrecision("float32"), GradientClip(1.), *cbs])
    learn.create_opt()
    clock = Clock()
    learn.opt.step = clock.around(learn.opt.step)
    for cb, event in zip(cbs, ("after_step", "after_batch")): setattr(cb, event, clock.around(getattr(cb, event)))
    learn.recorder.after_batch = clock.around(learn.recorder.after_batch)
    return learn, clock


def benchmarks(rounds=3):
    "Rows of name, ours, plain, ratio (plain / ours), unit and note"
    rows, folder = [], Path(tempfile.mkdtemp())
    for batch in (1, 8):
        ways, spent = [_learner(folder, batch, plain) for plain in (False, True)], ([], [], [])
        for _ in range(rounds):
            for k, (learn, clock) in enumerate(ways):
                clock.spent, began = 0., time.process_time()
                with learn.no_bar(), learn.no_logging(): learn.fit(1)
                spent[k].append(clock.spent / 8)
                if not k: spent[2].append((time.process_time() - began) / 8)
        ours, plain, step = map(median, spent)
        rows.append(dict(name=f"optimiser, EMA and log of a small PixelSNAIL step, batch {batch}", ours=1e3 * ours, plain=1e3 * plain,
                         ratio=plain / ours, unit="ms", share_of_step=ours / step,
                         note=f"step {1e3 * step:.0f} ms; plain: AdamW and average tensor by tensor, a number from the device each step"))
    return rows


if __name__ == "__main__":
    for row in benchmarks():
        print(row)

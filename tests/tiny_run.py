"""A recipe so small that a run takes a second: a generator of coloured noise, with dropout so that chance matters.

Run as a script it trains: `python tests/tiny_run.py OUT [name=value ...]`; `die=K` kills the process after step K.
"""
import json
import multiprocessing
import os
import resource
import signal
import socket
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from torch import nn

from foleybook.core.generator import Generator
from foleybook.core.randomness import ItemNoise
from foleybook.train.recipes import LoopRecipe
from foleybook.core.settings import parse_overrides
from foleybook.train.checkpoints import write_checkpoint
from foleybook.training import AdversarialTraining


@dataclass
class TinyConfig:
    width: int = 8
    sample_rate: int = 8000
    dropout: float = 0.2
    norm: bool = True
    gains: tuple[float, ...] = (1.0, 0.5)


class Tiny(Generator):
    labels = ["hiss", "rumble"]
    honours = frozenset({"seconds", "temperature"})

    def __init__(self, config: TinyConfig):
        super().__init__()
        self.config = config
        self.net = nn.Sequential(nn.Conv1d(1, config.width, 5, padding=2), nn.BatchNorm1d(config.width) if config.norm else nn.Identity(), nn.Tanh(),
                                 nn.Dropout(config.dropout), nn.Conv1d(config.width, 1, 5, padding=2))

    def forward(self, x):
        "Shape noise (b, 1, t)"
        return self.net(x)

    def _sample(self, cond, n, seeds, seconds, temperature):
        noise = ItemNoise(seeds).randn(1, round((seconds or 0.5) * self.sample_rate))
        gain = torch.tensor([0.2, 0.4])[cond.label][:, None, None]
        return torch.tanh(self.net(noise) * temperature * gain) + 0.1 * torch.sin(noise)


class Pairs:
    "Noise and its smoothed copy, in training with a random gain per visit"

    def __init__(self, n, chance=True):
        self.chance = chance
        self.x = torch.randn(n, 1, 64, generator=torch.Generator().manual_seed(1))

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        x = self.x[i] * (0.5 + torch.rand(()) if self.chance else 1)
        return x, nn.functional.avg_pool1d(x, 5, 1, 2)


def permuted(model):
    "The same model; the weights of its convolutions lie with the channels last"
    for m in model.modules():
        if isinstance(m, nn.Conv1d):
            m.weight = nn.Parameter(m.weight.detach().transpose(1, 2).contiguous().transpose(1, 2))
    return model


@contextmanager
def full_disk(size):
    "Inside, no file can grow beyond `size` bytes: writes fail as on a full disk"
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


class Explode(Callback):
    order = 7

    def after_loss(self):
        if self.training:
            self.learn.loss_grad = self.loss_grad * float("inf")


class Die(Callback):
    order = 99  # before the checkpoint of the same step

    def __init__(self, step):
        self.step = step

    def after_batch(self):
        if self.training and self.train_iter == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


@dataclass
class TinyRecipe(LoopRecipe):
    model: TinyConfig = field(default_factory=TinyConfig)
    n: int = 50
    die: int = 0
    game: bool = False
    permuted: bool = False  # weights that are permuted views, as those of the vocoders
    explode: bool = False
    presets = {"tiny": dict(steps=24, epoch_steps=8, batch_size=4, lr=1e-2, log_every=1)}

    def dataloaders(self, data):
        return DataLoaders(DataLoader(Pairs(self.n), bs=self.batch_size, shuffle=True, num_workers=self.workers),
                           DataLoader(Pairs(16, chance=False), bs=8), device=self.torch_device)

    def build_model(self, dls):
        return permuted(Tiny(self.model)) if self.permuted else Tiny(self.model)

    def callbacks(self):
        cbs = ([Die(self.die)] if self.die else []) + ([Explode()] if self.explode else [])
        if self.game:
            d = nn.Sequential(nn.Conv1d(1, 4, 5, padding=2), nn.Tanh(), nn.Conv1d(4, 3, 5, padding=2))
            d = permuted(d) if self.permuted else d
            cbs.append(AdversarialTraining(d, lambda r, f: ((1 - r) ** 2).mean() + (f**2).mean(),
                                           {"fool": (0.1, lambda r, f: ((1 - f) ** 2).mean())}))
        return cbs

    free = (*LoopRecipe.free, "die")


def recipe(**changes):
    return TinyRecipe.preset("tiny").override(changes)


def main(out, **options):
    torch.set_num_threads(1)
    model = recipe(**options).train(None, out, progress=False)
    weights = torch.cat([p.detach().flatten() for p in model.parameters()])
    if os.environ.get("WORLD_SIZE"):
        everyone = [torch.zeros_like(weights) for _ in range(int(os.environ["WORLD_SIZE"]))]
        torch.distributed.all_gather(everyone, weights)
        equal = all(torch.equal(w, weights) for w in everyone)
        print(json.dumps(dict(rank=int(os.environ["RANK"]), equal=equal)), flush=True)
        torch.distributed.destroy_process_group()


def pair(out, **options):
    "Two processes as torchrun starts them, forked, so that the imports are paid once; returns their exit codes"
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]

    def run(rank):
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        main(out, **options)

    both = [multiprocessing.get_context("fork").Process(target=run, args=(rank,)) for rank in range(2)]
    for p in both: p.start()
    while any(p.is_alive() for p in both) and not any(p.exitcode for p in both):
        both[0].join(0.1)
    for p in both:
        if any(q.exitcode for q in both): p.kill()
        p.join()
    return [p.exitcode for p in both]


if __name__ == "__main__":
    main(sys.argv[1], **parse_overrides(sys.argv[2:]))

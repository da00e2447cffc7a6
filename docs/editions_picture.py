"""Draw docs/images/editions.jpg: ten recordings, ten sounds of the first `foley`, ten of today's; clock, rooster and helicopter.

The weights of the first edition are read out of this repository's history, so that needs a whole clone; FOLEYBOOK_DATA has ESC-10.
"""
import io
import os
import subprocess
import tarfile
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt

import foleybook as fb
from foleybook.audio_features import MelConfig, log_mel
from foleybook.core.data_sets import open_dataset
from foleybook.core.sound_files import read_audio

ROOT = Path(__file__).resolve().parent.parent
FIRST = "c9a99df^"  # the last commit that shipped it
KINDS, N, SECONDS = ("clock_tick", "rooster", "helicopter"), 10, 4.0
DECIBELS = 60  # drawn below the loudest point of each picture


def first_edition(folder):
    "The model that this repository shipped first"
    kept = subprocess.run(["git", "archive", FIRST, "foleybook/weights/foley"], cwd=ROOT, check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(kept)) as files:
        files.extractall(folder, filter="data")
    return fb.load(str(Path(folder) / "foleybook/weights/foley"))


def rows(kind, first, now):
    "(name, sounds of a kind, each (t,)): recordings of fold 5 and of fold 4, as many sounds of either model"
    table = open_dataset(Path(os.environ["FOLEYBOOK_DATA"]) / "esc10")
    own = table.subset((table.df.label == kind).to_numpy() & table.df.fold.isin((4, 5)).to_numpy())
    size = round(SECONDS * now.sample_rate)
    yield "recordings", [read_audio(own.file(i), now.sample_rate)[0][0, :size] for i in range(N)]
    for name, model in (("first", first), ("now", now)):
        yield name, model.sample(kind, n=N, seconds=SECONDS, seed=0, progress=False).audio[:, 0]


def draw(path):
    "Write the picture"
    mel, now = MelConfig(), fb.load("foley")
    fig, axes = plt.subplots(3 * len(KINDS), N, figsize=(11, 7), layout="constrained")
    with tempfile.TemporaryDirectory() as folder:
        first = first_edition(folder)
        told = [(kind, *row) for kind in KINDS for row in rows(kind, first, now)]
    for line, (kind, name, sounds) in zip(axes, told):
        for ax, sound in zip(line, sounds):
            picture = log_mel(sound[None], mel)[0] * (20 / 2.302585)
            top = float(picture.max())
            ax.imshow(picture, origin="lower", aspect="auto", cmap="magma", vmin=top - DECIBELS, vmax=top, interpolation="bilinear")
            ax.set(xticks=[], yticks=[])
        line[0].set_ylabel(f"{kind.split('_')[0]}\n{name}", fontsize=9)
    fig.savefig(path, dpi=100, pil_kwargs=dict(quality=70))


if __name__ == "__main__":
    draw(ROOT / "docs/images/editions.jpg")

"A new sound in the browser: the page is pressed from a disk, and what comes out is a sound"
import base64
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "docs"))
CHROMIUM = any(map(shutil.which, ["chromium", "chromium-browser", "google-chrome", "chrome"]))
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    "A folder as the site has it, with a program of two calls and four rounds"
    pytest.importorskip("onnx")
    import new_sound

    top = tmp_path_factory.mktemp("site")
    (top / "_static").mkdir()
    shutil.copy(ROOT / "docs" / "_static" / "new_sound.js", top / "_static")
    told = new_sound.write(top / "_static" / "vendor" / "new_sound", steps=2, rounds=4, seconds=2.0)
    if not told:
        pytest.skip("npm or its registry cannot be had here: onnxruntime-web was not tried")
    (top / "page.html").write_text('<!doctype html><meta charset="utf-8"><div id="new-sound"></div><script src="_static/new_sound.js"></script>')
    return top / "page.html"


SAMPLES = """btoa([...new Uint8Array(foleybookMade.samples.buffer, foleybookMade.samples.byteOffset, foleybookMade.samples.byteLength)]
             .map(b => String.fromCharCode(b)).join(""))"""


def pressed(browser, number):
    "Press a kind; (label, samples, rate)"
    browser.value("window.foleybookMade = null")
    browser.click(f".new-sound-kinds button:nth-child({number})")
    browser.wait("!!window.foleybookMade", 400)
    return (browser.value("foleybookMade.label"), np.frombuffer(base64.b64decode(browser.value(SAMPLES)), "<f4"), browser.value("foleybookMade.rate"))


def test_licences_and_sources_lie_beside_the_model(page):
    folder = page.parent / "_static" / "vendor" / "new_sound"
    assert "MIT License" in (folder / "LICENSE-onnxruntime.txt").read_text() and "author" in (folder / "clips.csv").read_text()[:200]
    assert (folder / "model.js").stat().st_size < 34e6 * 1.05


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine")
def test_a_press_makes_a_new_sound_from_a_disk(page, tmp_path):
    import chromium

    with chromium.Browser(tmp_path / "b", 1000, 900) as browser:
        browser.open(page.as_uri(), "document.querySelectorAll('.new-sound-kinds button').length > 5")
        assert browser.value("typeof window.ort") == "undefined"  # nothing is loaded before a press
        label, x, rate = pressed(browser, 1)
        assert label == browser.value("foleybookAbout.labels[0]") and rate == 44100 and len(x) == 88200
        assert np.isfinite(x).all() and 0.01 < np.abs(x).max() <= 10 ** (-1 / 20) + 1e-6 and np.abs(x).std() > 1e-4
        assert abs(x[0]) < 1e-3 and abs(x[-1]) < 1e-3
        _, y, _ = pressed(browser, 1)
        assert np.corrcoef(x, y)[0, 1] < 0.5  # another one each time
        assert browser.value("document.querySelectorAll('.new-sound-take canvas').length") == 2
        link = browser.value("[document.querySelector('.new-sound-take a').download, document.querySelector('.new-sound-take a').href.slice(0, 5)]")
        assert link == [f"{label}.wav", "blob:"]
        drawn = browser.value("[...document.querySelector('.new-sound-take canvas').getContext('2d').getImageData(0, 0, 240, 80).data]")
        assert np.array(drawn).reshape(80, 240, 4)[..., 0].std() > 10
        browser.screenshot(tmp_path / "page.png")


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine")
def test_a_copy_without_the_model_says_so(page, tmp_path):
    import chromium

    (tmp_path / "_static").mkdir()
    shutil.copy(page.parent / "_static" / "new_sound.js", tmp_path / "_static")
    shutil.copy(page, tmp_path)
    with chromium.Browser(tmp_path / "b") as browser:
        browser.open((tmp_path / "page.html").as_uri(), "document.querySelector('#new-sound output')?.textContent")
        assert "without the model" in browser.value("document.querySelector('#new-sound output').textContent")


def test_without_npm_there_is_a_word(tmp_path, monkeypatch, capsys):
    import new_sound

    monkeypatch.setattr(new_sound, "runtime", lambda folder: (_ for _ in ()).throw(OSError("no registry")))
    assert new_sound.write(tmp_path / "x") == {} and not (tmp_path / "x").exists()
    assert "built without the model: no registry" in capsys.readouterr().err

"A new sound in the browser: the page is pressed from a disk, and what comes out is a sound"
import base64
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "docs"))
CHROMIUM = any(map(shutil.which, ["chromium", "chromium-browser", "google-chrome", "chrome"]))
slow = pytest.mark.slow  # a program is exported, and its runtime fetched


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


@slow
def test_licences_and_sources_lie_beside_the_model(page):
    folder = page.parent / "_static" / "vendor" / "new_sound"
    assert "MIT License" in (folder / "LICENSE-onnxruntime.txt").read_text() and "author" in (folder / "clips.csv").read_text()[:200]
    assert (folder / "model.js").stat().st_size < 34e6 * 1.05


@slow
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


# Takes the place of the runtime: what a session is made of and what it gives is said by each test
RUNTIME = """window.ort = {env: {wasm: {}}, Tensor: function (kind, data, shape) { Object.assign(this, {data, shape}); },
  InferenceSession: {create: async () => SESSION}};"""
HELD = dict(labels=["rain", "dog_bark"], rate=8000, hop=64, licence="CC0", inputs=dict(noise=[1, 4], classes=[1, 2]),
            model="", runtime="", loader="")
NOISE = "({run: async given => { window.given = given; return {audio: {data: given.noise.data.length && new Float32Array(8000).fill(.1)}}; }})"
LARGE = "(() => { throw new RangeError('WebAssembly.Memory(): could not allocate memory'); })()"


@pytest.fixture
def small(tmp_path):
    "A page whose runtime is a few lines; gives the function that opens it"
    import chromium

    opened = []

    def begin(session, before="", about=True):
        top, vendor = tmp_path / "_static", tmp_path / "_static/vendor/new_sound"
        vendor.mkdir(parents=True)
        shutil.copy(ROOT / "docs" / "_static" / "new_sound.js", top)
        if about: (vendor / "about.js").write_text("window.foleybookAbout = {labels: ['rain', 'dog_bark'], seconds: 1, level: false};")
        (vendor / "ort.wasm.min.js").write_text(RUNTIME.replace("SESSION", session))
        (vendor / "runtime.js").write_text("window.foleybookProgram = {};")
        (vendor / "model.js").write_text(f"Object.assign(window.foleybookProgram, {json.dumps(HELD)});")
        (tmp_path / "page.html").write_text(f'<meta charset="utf-8"><script>{before}</script><div id="new-sound"></div>'
                                            '<script src="_static/new_sound.js"></script>')
        browser = chromium.Browser(tmp_path / "b").__enter__()
        opened.append(browser)
        browser.open((tmp_path / "page.html").as_uri(), "!!document.querySelector('#new-sound output')")
        return browser

    yield begin
    for b in opened: b.__exit__()


TOLD = "document.querySelector('#new-sound output').textContent"
PRESS = ".new-sound-kinds button:nth-child(2)"


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine")
@pytest.mark.parametrize("before, session, said", [
    ("delete window.WebAssembly;", NOISE, "no WebAssembly. Try a newer one"), ("", LARGE, "more memory"),
    ("WebAssembly.validate = () => false;", NOISE, "runs no SIMD")])
def test_a_browser_that_cannot_is_told_so_and_may_try_again(small, before, session, said):
    page = small(session, before)
    for _ in range(2):
        page.wait("document.querySelectorAll('.new-sound-kinds button').length == 2")
        page.click(PRESS)
        page.wait(f"{TOLD}.includes({json.dumps(said)})")
        page.value("document.querySelector('#new-sound output').textContent = ''")


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine")
def test_without_permission_to_play_the_sound_is_there_all_the_same(small):
    page = small(NOISE, "HTMLMediaElement.prototype.play = () => Promise.reject(new DOMException('no', 'NotAllowedError'));")
    page.wait("document.querySelectorAll('.new-sound-kinds button').length == 2")
    page.click(PRESS)
    page.wait("document.querySelectorAll('.new-sound-take audio').length == 1")
    page.wait(f"{TOLD} === ''")
    assert page.value("[...given.classes.data]") == [0, 1] and page.value("given.noise.data.length") == 4
    assert page.value("document.querySelector('.new-sound-take a').download") == "dog_bark.wav"


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine")
def test_a_copy_without_the_model_says_so(small):
    page = small(NOISE, about=False)
    page.wait(f"{TOLD}.includes('without the model')")


def test_without_npm_there_is_a_word(tmp_path, monkeypatch, capsys):
    import new_sound

    monkeypatch.setattr(new_sound, "runtime", lambda folder: (_ for _ in ()).throw(OSError("no registry")))
    assert new_sound.write(tmp_path / "x") == {} and not (tmp_path / "x").exists()
    assert "built without the model: no registry" in capsys.readouterr().err

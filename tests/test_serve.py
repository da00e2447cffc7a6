"""The studio: what the page and programs of this machine may ask, and what nobody may."""
import io
import json
import math
import shutil
import socket
import threading
import time
import urllib.error
import urllib.request
import zipfile
from dataclasses import dataclass

import numpy as np
import pytest
import soundfile as sf
import torch

from foleybook.apps import serve
from foleybook.apps.serve import Desk, Studio, checked_wish
from foleybook.core.generator import Generator

CHROMIUM = any(map(shutil.which, ["chromium", "chromium-browser", "google-chrome", "chrome"]))


@dataclass
class HumConfig:
    labels: tuple = ("low", "high")


class Hum(Generator):
    "A tone whose pitch is its class; keeps what it was asked"
    asks = frozenset({"label", "shares", "controls"})
    honours = frozenset({"seconds", "init", "mask", "strength", "loop"})
    optional_tracks, default_seconds, longest_seconds, sample_rate = ("level",), 0.5, 4.0, 8000

    def __init__(self):
        super().__init__()
        self.config, self.labels, self.seen, self.slow = HumConfig(), ["low", "high"], [], 0

    def events(self, moments, seconds): return dict(level=torch.full((20,), -20.0))

    def _sample(self, cond, n, seeds, seconds, **asked):
        time.sleep(self.slow)
        self.seen.append(dict(asked, seconds=seconds, kinds=cond.kinds, seeds=list(seeds)))
        t = torch.arange(round(seconds * 8000)) / 8000
        hz = 200 + 300 * cond.class_shares(2)[:, 1, None, None]
        return 0.3 * torch.sin(2 * math.pi * hz * t)


@pytest.fixture
def desk():
    made = Desk(Studio(Hum(), "hum"))
    yield made
    made.close()


def ask(desk, path, value=None, url=None, **headers):
    "(code, body) of a request"
    body = value if isinstance(value, bytes) or value is None and path == "" else json.dumps({} if value is None else value).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url or desk.url + path, body, headers), timeout=20) as got: return got.status, got.read()
    except urllib.error.HTTPError as e: return e.code, e.read()


def job(desk, **wish):
    "The end of a job"
    code, told = ask(desk, "make", wish)
    assert code == 200, told
    end = time.monotonic() + 60
    while time.monotonic() < end:
        state = json.loads(ask(desk, "state", dict(job=json.loads(told)["job"]))[1])
        if state["state"] in ("done", "failed"): return state
        time.sleep(0.02)
    raise AssertionError(state)


def wav(seconds=0.5, rate=8000, channels=1):
    whole = io.BytesIO()
    sf.write(whole, np.random.default_rng(0).uniform(-0.3, 0.3, (round(seconds * rate), channels)), rate, format="WAV")
    return whole.getvalue()


def pitch(data):
    x, rate = sf.read(io.BytesIO(data))
    return np.abs(np.fft.rfft(x)).argmax() * rate / len(x)


def test_takes_are_made_kept_and_zipped(desk):
    state = job(desk, cond="high", n=3, seed=5)
    assert state["state"] == "done" and [t["seed"] for t in state["takes"]] == [5, 6, 7]
    code, data = ask(desk, "sound", dict(take=state["takes"][0]["take"]))
    assert code == 200 and abs(pitch(data) - 500) < 5
    for t in state["takes"][:2]: assert ask(desk, "keep", dict(take=t["take"]))[0] == 200
    assert ask(desk, "keep", dict(take=state["takes"][1]["take"], keep=False))[0] == 200
    with zipfile.ZipFile(io.BytesIO(ask(desk, "zip")[1])) as z:
        assert z.namelist() == ["high_5_0.wav", "metadata.jsonl"]
        assert json.loads(z.read("metadata.jsonl"))["seed"] == 5 and z.read("high_5_0.wav") == data


def test_mixtures_and_moments(desk):
    mixed = job(desk, cond=dict(low=0.5, high=0.5))
    assert mixed["takes"][0]["label"] == "50% low + 50% high"
    assert job(desk, cond="low", at=[0.1, 0.3])["state"] == "done"
    assert "controls" in str(desk.studio.model.seen[-1]["kinds"])


@pytest.mark.parametrize("way,more,wanted", [
    ("vary", dict(strength=0.4), lambda a: a["strength"] == 0.4), ("fill", dict(start=0.1, end=0.2), lambda a: a["mask"].sum() == 800),
    ("loop", {}, lambda a: a["loop"]), ("continue_", dict(seconds=0.8), lambda a: a["mask"] is not None and a["seconds"] <= 0.8)])
def test_a_recording_is_varied_filled_looped_continued(desk, way, more, wanted):
    code, told = ask(desk, "upload?name=take.wav", wav())
    held = json.loads(told)
    assert code == 200 and held["seconds"] == 0.5 and held["sample_rate"] == 8000
    state = job(desk, way=way, cond="low", file=held["file"], **more)
    assert state["state"] == "done", state
    assert wanted(desk.studio.model.seen[-1])
    assert state["takes"][0]["seconds"] == (0.8 if way == "continue_" else 0.5)


@pytest.mark.parametrize("wish,said", [
    ([], "an object"), (dict(n=0), "Give 1 to 16"), (dict(n=17), "Give 1 to 16"), (dict(n=True), "wrong kind"), (dict(colour=1), "is not known"),
    (dict(way="sing"), "is not known"), (dict(way="vary"), "upload one first"), (dict(way="vary", file="../../etc/passwd"), "no longer here"),
    (dict(at=["x"]), "numbers"), (dict(cond=3), "wrong kind"), (dict(steps=10**7), "Give up to 1000"), (dict(guidance=1e300), "Give up to 100")])
def test_what_is_no_wish_is_answered(desk, wish, said):
    code, told = ask(desk, "make", wish)
    assert code == 400 and said in told.decode()


def test_no_kind_is_drawn_by_chance(desk):
    held = json.loads(ask(desk, "upload?name=take.wav", wav())[1])
    assert "Give cond, one of low, high" in job(desk, way="vary", file=held["file"])["said"]
    heard = []
    desk.studio.model.heard_as = lambda file: heard.append(file) or [(0.5, "high"), (1.5, "low")]
    state = job(desk, way="vary", file=held["file"])
    assert state["takes"][0]["label"] == "high" and sf.info(heard[0]).frames == 4000
    assert job(desk, way="vary", cond="low", file=held["file"])["takes"][0]["label"] == "low" and len(heard) == 1


def test_an_answer_costs_little_beside_the_sampling(desk):
    job(desk, cond="low")
    began = time.process_time()
    for _ in range(10): job(desk, cond="low", n=2)
    assert time.process_time() - began < 10


def test_a_failed_job_says_why_and_the_next_one_works(desk):
    assert "bell" in job(desk, cond="bell")["said"]
    assert "4" in job(desk, cond="low", seconds=90)["said"]
    assert job(desk, cond="low")["state"] == "done"


def test_whatever_goes_wrong_in_a_job_the_next_one_works(desk, monkeypatch):
    "A mistake that nobody foresaw, and a recording that went while its job waited"
    sample = Hum._sample
    monkeypatch.setattr(Hum, "_sample", lambda *a, **k: {}["sound"])
    assert "sound" in job(desk, cond="low")["said"]
    monkeypatch.setattr(Hum, "_sample", sample)
    desk.studio.model.slow = 0.5
    first = json.loads(ask(desk, "make", dict(cond="low"))[1])["job"]
    held = json.loads(ask(desk, "upload?name=take.wav", wav())[1])["file"]
    waits = json.loads(ask(desk, "make", dict(way="vary", cond="low", file=held))[1])["job"]
    desk.studio.files.pop(held).unlink()
    assert job(desk, cond="low")["state"] == "done"
    assert desk.studio.jobs[first]["state"] == "done" and "upload it again" in desk.studio.jobs[waits]["said"]


def test_a_zip_is_whole_while_others_make_more(desk):
    for t in job(desk, cond="low", n=8)["takes"]: assert ask(desk, "keep", dict(take=t["take"]))[0] == 200
    going = threading.Event()
    def add():
        k = 0
        while not going.is_set():
            with desk.studio.door: desk.studio.takes[f"more{(k := k + 1)}"] = None
    other = threading.Thread(target=add)
    other.start()
    try: codes = [ask(desk, "zip") for _ in range(5)]
    finally:
        going.set()
        other.join()
    for code, data in codes:
        assert code == 200, data
        with zipfile.ZipFile(io.BytesIO(data)) as z: assert len(z.namelist()) == 9


@pytest.mark.parametrize("data,said", [(b"", "is empty"), (b"no sound", "no audio"), (wav()[:2000], "cut off")])
def test_what_is_no_recording_is_refused_and_does_not_stay(desk, data, said):
    code, told = ask(desk, "upload?name=../../x.wav", data)
    assert code == 400 and said in told.decode() and not [*desk.studio.folder.iterdir()]


def test_two_gigabytes_are_refused_before_they_are_read(desk):
    port = desk.server.server_port
    with socket.create_connection(("127.0.0.1", port), timeout=10) as s:
        path = desk.url.split("/", 3)[3]
        s.sendall(f"POST /{path}upload HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: {2 * 2**30}\r\n\r\n".encode())
        assert s.recv(100).startswith(b"HTTP/1.0 413")
    for lie in ("-1", "x"):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as s:
            s.sendall(f"POST /{path}make HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: {lie}\r\n\r\n".encode())
            assert s.recv(100).startswith(b"HTTP/1.0 413")


def test_strangers_are_refused(desk):
    port = desk.server.server_port
    assert ask(desk, "about", Origin="http://elsewhere.example")[0] == 403
    assert ask(desk, "about", Host="elsewhere.example")[0] == 403
    assert ask(desk, "about", **{"Sec-Fetch-Site": "cross-site"})[0] == 403
    assert ask(desk, "about", url=f"http://127.0.0.1:{port}/guess/about")[0] == 403
    assert ask(desk, "about")[0] == 200 and desk.server.server_address[0] == "127.0.0.1"
    code, page = ask(desk, "")
    assert code == 200 and b"Studio" in page


def test_two_at_once_are_both_served_and_a_crowd_is_told_to_wait(desk):
    desk.studio.model.slow = 0.2
    keys = [json.loads(ask(desk, "make", dict(cond="low"))[1])["job"] for _ in range(2)]
    codes = [ask(desk, "make", dict(cond="low"))[0] for _ in range(serve.MOST_JOBS + 3)]
    assert 429 in codes
    end = time.monotonic() + 60
    while not all(desk.studio.jobs[k]["state"] == "done" for k in keys): assert time.sleep(0.05) or time.monotonic() < end


@pytest.mark.parametrize("path", ["state", "sound", "keep", "sing"])
@pytest.mark.parametrize("value", [{}, dict(job=[1], take={}), dict(job="x", take="x")])
def test_what_is_not_there_is_404(desk, path, value): assert ask(desk, path, value)[0] == 404


def test_memory_is_bounded(desk, monkeypatch):
    monkeypatch.setattr(serve, "MOST_HELD", 4)
    first = job(desk, cond="low", n=2)["takes"]
    assert ask(desk, "keep", dict(take=first[0]["take"]))[0] == 200
    for _ in range(3): job(desk, cond="low", n=2)
    assert len(desk.studio.takes) == 4 and first[0]["take"] in desk.studio.takes
    assert ask(desk, "sound", dict(take=first[1]["take"]))[0] == 404
    monkeypatch.setattr(serve, "MOST_HELD", 1)
    code, told = ask(desk, "keep", dict(take=list(desk.studio.takes)[-1]))
    assert code == 400 and "kept already" in told.decode() and ask(desk, "keep", dict(take=first[0]["take"]))[0] == 200
    for _ in range(serve.MOST_JOBS + 2): ask(desk, "upload?name=a.wav", wav())
    assert len([*desk.studio.folder.iterdir()]) == serve.MOST_JOBS


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine")
def test_the_page_is_pressed(desk, tmp_path):
    import chromium

    with chromium.Browser(tmp_path / "b", 900, 1000) as page:
        page.open(desk.url, "document.querySelectorAll('#kinds button').length == 2")
        page.value("(o => { URL.createObjectURL = b => { window.made = b; return o(b); }; })(URL.createObjectURL.bind(URL))")
        page.click("#kinds button[data-name=high]")
        page.click("#strip", 0.3)
        assert page.value("taps.length") == 1
        page.click("#make")
        page.wait("document.querySelectorAll('#takes audio').length == 1")
        data = page.value("window.made.arrayBuffer().then(b => [...new Uint8Array(b)])")
        assert abs(pitch(bytes(data)) - 500) < 5 and "controls" in str(desk.studio.model.seen[-1]["kinds"])
        page.click("#takes input")
        page.wait("true")
        end = time.monotonic() + 20
        while not desk.studio.kept: assert time.sleep(0.05) or time.monotonic() < end
        page.wait("!document.getElementById('zip').disabled")
        assert page.value("document.getElementById('told').textContent") == ""


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine")
def test_a_level_is_drawn_and_only_what_is_of_use_is_seen(desk, tmp_path):
    import chromium

    with chromium.Browser(tmp_path / "b", 900, 1000) as page:
        page.open(desk.url, "document.querySelectorAll('#kinds button').length == 2")
        seen = "[...document.querySelectorAll('[data-for]')].filter(e => !e.hidden).map(e => e.dataset.for)"
        assert page.value(seen) == ["new continue_"]
        x, y, w, h = page.value("(b => [b.x, b.y, b.width, b.height])(document.getElementById('strip').getBoundingClientRect())")
        for kind, across, down in (("mousePressed", 0.0, 0.9), ("mouseMoved", 0.5, 0.1), ("mouseMoved", 1.0, 0.9), ("mouseReleased", 1.0, 0.9)):
            page("Input.dispatchMouseEvent", type=kind, x=x + across * (w - 2) + 1, y=y + down * h, button="left", buttons=1, clickCount=1)
        level = page.value("asked().level")
        assert len(level) == 100 and max(level) == max(level[45:56]) > -25 and level[0] < -60 and level[-1] < -60 and page.value("taps.length") == 0
        page.click("#clear")
        assert page.value("asked().level") is None
        page.click("#ways button[data-name=fill]")
        assert page.value(seen) == ["vary fill continue_ loop"] * 2 + ["fill"] * 2
        page.click("#kinds button[aria-pressed=true]")  # pressed again: as the recording sounds
        assert page.value("asked().cond") is None and page.value("document.documentElement.scrollWidth") <= 900


@pytest.fixture
def wide_desk():
    class Wide(Hum):
        honours = Hum.honours | {"channels"}

        def _sample(self, cond, n, seeds, seconds, channels, **asked):
            return super()._sample(cond, n, seeds, seconds, **asked).expand(n, channels, -1)
    made = Desk(Studio(Wide(), "wide"))
    yield made
    made.close()


def test_stereo_is_asked_where_the_model_has_it(desk, wide_desk):
    made = job(wide_desk, cond="low", channels=2)["takes"][0]["take"]
    assert sf.info(io.BytesIO(ask(wide_desk, "sound", dict(take=made))[1])).channels == 2
    assert "cannot honour channels=2" in job(desk, cond="low", channels=2)["said"]
    assert not json.loads(ask(desk, "about")[1])["stereo"] and json.loads(ask(wide_desk, "about")[1])["stereo"]


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine")
def test_stereo_is_a_tick_on_the_page(wide_desk, tmp_path):
    import chromium

    with chromium.Browser(tmp_path / "b", 900, 1000) as page:
        page.open(wide_desk.url, "document.querySelectorAll('#kinds button').length == 2")
        assert page.value("asked().channels") is None
        page.click("#stereo")
        assert page.value("asked().channels") == 2
        page.click("#ways button[data-name=fill]")
        assert page.value("asked().channels") is None and page.value("document.getElementById('stereo').parentElement.hidden")


def test_checked_wishes_are_copies():
    wish = {}
    assert checked_wish(wish)["n"] == 1 and wish == {}

"""What is published of a model, and a hub on this machine that takes it."""
import base64
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
import yaml

from foleybook.apps.cli import main
from foleybook.apps.publish import parcel, send
from foleybook.core.generator import shipped_models
from foleybook.core.files import CheckpointError
from foleybook.core.low_rank import LowRank, LowRankConfig
from foleybook.core.sounds import Sounds
from foleybook.vocoders import ISTFTConfig, ISTFTVocoder
from foleybook.audio_features import MelConfig


@pytest.fixture
def sounds(tmp_path):
    "Five sounds of two classes"
    audio = torch.rand(5, 1, 800) - 0.5
    Sounds(audio, 8000, range(5), ["rain"] * 4 + ["dog"], dict(licence="CC0")).save(tmp_path / "sounds")
    return tmp_path / "sounds"


@pytest.fixture
def model(tmp_path):
    "A folder of a run: a vocoder, a table of its clips, and much that is nobody's business"
    folder = ISTFTVocoder(ISTFTConfig(MelConfig.preset("dcase2023"), 8, 16, 1)).save_pretrained(tmp_path / "mine", dict(licence="CC BY 4.0"))
    (folder / "clips.csv").write_text("path,author\n1.wav,Ann\n")
    (folder / "run.json").write_text('{"data": "/home/ann/secret"}')
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "state.safetensors").write_bytes(b"large")
    return folder


@pytest.fixture
def hub(monkeypatch):
    "A hub on this machine that keeps what it is sent"
    kept = dict(repos=[], files={}, refuse=0)

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_): pass

        def say(self, value, code=200):
            body = json.dumps(value).encode()
            self.send_response(code)
            for k, v in {"Content-Type": "application/json", "Content-Length": str(len(body))}.items(): self.send_header(k, v)
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self): self.say(dict(id="me/rain", sha="0" * 40, siblings=[], type="user", name="me", auth=dict(type="access_token")))

        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if kept["refuse"]: return self.say(dict(error="refused"), kept["refuse"])
            if self.path.startswith("/api/repos/create"):
                kept["repos"].append(json.loads(body))
                return self.say(dict(url=f"http://{self.headers['Host']}/me/rain", name="me/rain"))
            if "/preupload/" in self.path:
                return self.say(dict(files=[dict(path=f["path"], uploadMode="regular", shouldIgnore=False) for f in json.loads(body)["files"]]))
            if "/commit/" in self.path:
                for line in map(json.loads, body.splitlines()):
                    if line["key"] == "file": kept["files"][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                return self.say(dict(success=True, commitUrl=f"http://{self.headers['Host']}/me/rain/commit/" + "0" * 40, commitOid="0" * 40))
            self.say(dict(errors=[], warnings=[]))

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    from huggingface_hub import HfApi, constants

    monkeypatch.setattr(constants, "ENDPOINT", url)
    kept["api"] = HfApi(endpoint=url, token="hf_" + "x" * 34)
    yield kept
    server.shutdown()
    server.server_close()


def front(card): return yaml.safe_load(card.split("---")[1])


def test_nothing_else_of_a_run_goes(model, sounds):
    found = parcel(model, "hf://me/rain", sounds, most=3)
    assert {*found.files} == {"README.md", "clips.csv", "config.json", "model.safetensors", "audio/rain_0.wav", "audio/dog_4.wav", "audio/rain_1.wav"}
    assert "secret" not in found.files["README.md"].decode() and "7 files" in str(found)


def test_the_card_names_the_model_and_can_be_heard(model, sounds):
    card = parcel(model, "hf://me/rain", sounds).files["README.md"].decode()
    told = front(card)
    assert told["license"] == "cc-by-4.0" and told["library_name"] == "foleybook" and told["pipeline_tag"] == "audio-to-audio"
    assert [w["text"] for w in told["widget"]] == ["rain", "dog", "rain", "rain", "rain"]
    assert "fb.load('hf://me/rain')" in card and "this folder" not in card and card.count("```python") == 1


def test_a_generator_is_found_under_text_to_audio():
    card = parcel("foley", "hf://me/foley").files["README.md"].decode()
    assert front(card)["pipeline_tag"] == "text-to-audio" and front(card)["license"] == "other"
    assert "model.sample('baby_cry', n=4" in card and "| recognised |" in card


def adapter(home, base):
    "A file of differences beside a model, as `adapt` writes it"
    own = LowRank(LowRankConfig(base, "0" * 16, "backbone", 2, {}, {}, {"classes.weight": 320}, ("bells",)))
    own.save_pretrained(home, dict(licence="CC0", base=base))
    return home


@pytest.mark.parametrize("base", ["foley", "hf://you/painter"])
def test_an_adapter_names_its_base(tmp_path, base):
    found = parcel(adapter(tmp_path / "own", base), "hf://me/bells")
    card = found.files["README.md"].decode()
    assert {*found.files} == {"README.md", "config.json", "model.safetensors"}
    assert f"fb.load({base!r}, adapters=['hf://me/bells'])" in card and front(card)["license"] == "cc0-1.0"
    assert "model.sample('bells', n=4" in card


def test_an_adapter_whose_base_nobody_has_is_not_sent(tmp_path):
    with pytest.raises(CheckpointError, match="learned beside .*mine, which others do not have.*--merge"):
        parcel(adapter(tmp_path / "own", str(tmp_path / "mine")), "hf://me/bells")


def test_it_is_sent_in_one_commit(model, sounds, hub):
    found = parcel(model, "hf://me/rain", sounds)
    assert send(found, private=True, api=hub["api"]) == "hf://me/rain"
    asked = hub["repos"][0]
    assert asked["name"] == "rain" and (asked.get("private") is True or asked.get("visibility") == "private")
    assert {*hub["files"]} == {*found.files} and hub["files"]["model.safetensors"] == (model / "model.safetensors").read_bytes()


def test_a_refusal_says_what_to_do(model, hub):
    hub["refuse"] = 403
    with pytest.raises(ConnectionError, match="Log in"): send(parcel(model, "hf://me/rain"), api=hub["api"])


def test_a_dry_run_sends_nothing(model, sounds, hub, capsys):
    assert main(["publish", str(model), "hf://me/rain", "--sounds", str(sounds)]) == 0
    told = capsys.readouterr().out
    assert "model.safetensors" in told and "pipeline_tag" in told and "nothing was sent" in told and not hub["repos"]


@pytest.mark.parametrize("where", ["me/rain", "hf://rain", "hf://me/../x", "https://x"])
def test_names_that_are_none(model, capsys, where):
    assert main(["publish", str(model), where]) == 1 and "hf://OWNER/NAME" in capsys.readouterr().err


def test_what_is_no_model_is_named(tmp_path):
    (tmp_path / "x").mkdir()
    with pytest.raises(CheckpointError, match="holds no model"): parcel(tmp_path / "x", "hf://me/rain")
    (tmp_path / "x" / "pipeline.json").write_text(json.dumps(dict(parts={"../../etc": "0"})))
    with pytest.raises(CheckpointError, match="no name of a part"): parcel(tmp_path / "x", "hf://me/rain")


def test_weights_that_are_a_link_to_elsewhere_stay(model, tmp_path):
    (tmp_path / "secret.safetensors").write_bytes(b"key")
    (model / "more.safetensors").symlink_to(tmp_path / "secret.safetensors")
    assert "more.safetensors" not in parcel(model, "hf://me/rain").files


def test_figures_of_the_card_stay():
    told = json.loads((shipped_models()["foley"] / "pipeline.json").read_text())["card"]["metrics"]["Frechet distance"]
    assert f"| Frechet distance | {told:.4g} |" in parcel("foley", "hf://me/foley").files["README.md"].decode()

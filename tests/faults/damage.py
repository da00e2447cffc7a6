"""Files that a careless or a hostile user could give: sounds, tables, model folders, weights. Each is made from a number, so that a
failure can be made again."""
import hashlib
import io
import json
import os
import pickle
import random
import shutil
import struct
import zipfile
from pathlib import Path

import numpy as np
import soundfile as sf
import torch
from safetensors.torch import save_file

from foleybook.core.settings import config_hash

FORMATS = ("wav", "flac", "ogg", "mp3", "aiff")
ODD = [0, -1, 1, 2**31 - 1, -2**31, 1e300, -1e-300, float("nan"), float("inf"), "", "nan", "x" * 5000, "../../x", "/etc/passwd", None, [], {}, True,
       "雨", "\0", [1, 2], {"a": 1}]


def damaged_bytes(data, rng):
    "Bytes with something done to them that happens to files"
    data = bytearray(data)
    n, kind = len(data), rng.integers(9)
    at = int(rng.integers(max(1, n)))
    if kind == 0: return bytes(data[:at])  # cut
    if kind == 1: return b""
    if kind == 2: data[at:at + 4096] = bytes(len(data[at:at + 4096]))  # a block of zeros
    if kind == 3:
        for i in rng.integers(n, size=max(1, n // 200)): data[i] ^= 1 << int(rng.integers(8))
    if kind == 4:
        i = int(rng.integers(max(1, min(60, n - 4))))  # a number in the header
        data[i:i + 4] = struct.pack("<I", int(rng.choice([0, 1, 7, 2**31 - 1, 2**32 - 1, 10**9, 44099])))
    if kind == 5: data[at:at] = rng.bytes(int(rng.integers(1, 5000)))
    if kind == 6: return rng.bytes(n)
    if kind == 7: data = data[:at] + data[at // 2:]  # a piece twice
    if kind == 8: data = data + data  # appended to itself
    return bytes(data)


def audio(folder, k):
    "A damaged sound file, one of the five formats in turn"
    rng, kind = np.random.default_rng(k), FORMATS[k % len(FORMATS)]
    rate = int(rng.choice([8000, 22050, 44099, 44100, 48000]))
    x = rng.uniform(-0.5, 0.5, (int(rate * rng.uniform(0.05, 1)), int(rng.integers(1, 3))))
    whole = io.BytesIO()
    subtype = str(rng.choice(["PCM_16", "FLOAT"])) if kind in ("wav", "aiff") else None
    if subtype == "FLOAT" and rng.random() < 0.5: x[0] = rng.choice([np.nan, np.inf, 1e30, 1e-30])
    sf.write(whole, x, 44100 if kind == "mp3" else rate, format=kind.upper(), subtype=subtype)
    file = folder / f"{k}.{kind if rng.random() < 0.9 else str(rng.choice(FORMATS))}"
    file.write_bytes(damaged_bytes(whole.getvalue(), rng))
    return file


def table(folder, k, clips):
    "A damaged clip table over sounds that are there"
    rng = np.random.default_rng(k)
    names = ["path", "label", "split", "fold", "start", "seconds", "source", "licence", "category", "odd"]
    columns = ["path", *rng.choice(names[1:], int(rng.integers(0, 6)), replace=False)]
    rows = [[str(c), *(str(rng.choice([0, 1, 0.1, "a", "b", "train", "test", ""])) for _ in columns[1:])] for c in clips]
    for _ in range(int(rng.integers(0, 4))):
        row = rows[int(rng.integers(len(rows)))]
        row[int(rng.integers(len(row)))] = str(ODD[int(rng.integers(len(ODD)))])
    text = "\n".join(",".join(r) for r in [columns, *rows]).encode(errors="replace")
    file = folder / f"{k}.csv"
    file.write_bytes(damaged_bytes(text, rng) if rng.random() < 0.4 else text)
    return file


def changed_json(value, rng):
    "A JSON value with one entry exchanged, removed or added"
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = list(value)[int(rng.integers(len(value)))]
        if rng.random() < 0.15: return {k: v for k, v in value.items() if k != key}
        if rng.random() < 0.1: return value | {"surplus": 1}
        return value | {key: changed_json(value[key], rng)}
    return ODD[int(rng.integers(len(ODD)))]


def folder(whole, target, k):
    "A copy of a model folder with one of its files damaged"
    rng = np.random.default_rng(k)
    shutil.copytree(whole, target)
    files = sorted(p for p in target.rglob("*") if p.is_file())
    file = files[int(rng.integers(len(files)))]
    if rng.random() < 0.15: file.unlink()
    elif file.suffix == ".json" and rng.random() < 0.7:
        file.write_text(json.dumps(changed_json(json.loads(file.read_text()), rng)))
    else: file.write_bytes(damaged_bytes(file.read_bytes(), rng))
    return file.relative_to(target)


LIES = [None, True, -1, 0, 1, 2, 7, 1.5, 10**4, 2**26, 2**31, 2**40, 2**70, 10**300, float("nan"), "", "x", "\0", [], [1], [[2]], [1, 2, 3], [2**40, 1, 1], {}, {"a": 1}]


def codec(whole, k):
    "Bytes of a file of codes whose digest is right and whose head lies, or is no head at all"
    rng, body = random.Random(k), whole[:-16]
    end = 12 + int.from_bytes(body[8:12], "little")
    head, rest = json.loads(body[12:end]), body[end:]
    way = rng.randrange(8)
    if way == 0: text = rng.choice([b"", b"{", b"[" * 3000, b"7", b"null", b"\xff\xfe", b"{}", b'{"shape": ' + b"9" * 6000 + b"}"])
    elif way == 1: text = damaged_bytes(body[12:end], np.random.default_rng(k))
    else:
        for name in rng.sample([*head, "more"], rng.choice([1, 1, 1, 2, 3])):
            if rng.random() < 0.1: head.pop(name, None)
            else: head[name] = rng.choice(LIES)
        if way == 2: head["samples"], head["sample_rate"] = rng.choice([(36_000_000, 1000), (2**26, 768_000), (60_000_000, 48_000)])
        if way == 3: rest = damaged_bytes(rest, np.random.default_rng(k)) if rest else rest
        text = json.dumps(head).encode()
    length = len(text) if rng.random() < 0.95 else rng.randrange(2**32)
    body = body[:8] + length.to_bytes(4, "little") + text + rest
    return body + hashlib.blake2b(body, digest_size=16).digest()


def request(port, token, k):
    "Bytes for the live page, and whether damage may have made them those of the page itself"
    rng, own = random.Random(k), f"127.0.0.1:{port}"
    method = rng.choice(["GET", "POST", "POST", "PUT", "HEAD", "OPTIONS", "get", "\0", "X" * 70_000])
    path = rng.choice([f"/{token}/", f"/{token}/next", f"/{token}/set?name=rate&value=0.9", "/", "/next", "/set?name=rate&value=0.9", f"/{token[:-1]}/next",
                       f"//{token}/next", f"/../{token}/next", f"http://evil.example/{token}/next", f"/{token}/../next", "/" + "a" * 70_000, "/%00/next", ""])
    headers = dict(Host=own)
    foreign = rng.choice([dict(Host="evil.example"), dict(Host=f"evil.example:{port}"), dict(Host="127.0.0.1"), dict(Host=f"{own}.evil.example"), dict(Host=""),
                          dict(Origin="http://evil.example"), dict(Origin="null"), dict(Origin=f"https://{own}"), {"Sec-Fetch-Site": "cross-site"},
                          {"Sec-Fetch-Site": "same-site"}, {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "iframe"}])
    lines = [f"{k}: {v}" for k, v in (headers | foreign).items()] + rng.choice([[], ["Host: evil.example"], ["x" * 70_000], ["Content-Length: 99999999"], ["a"] * 300])
    text = f"{method} {path} HTTP/1.{rng.choice('0112')}\r\n" + "\r\n".join(lines) + "\r\n\r\n"
    if len(text) < 1000 and rng.random() < 0.2: return damaged_bytes(text.encode("latin1"), np.random.default_rng(k)), True
    return text.encode("latin1"), False


HUGE = [0, -1, 2**20, 2**40, 10**7, 10**300, 2**63]
CARDS = [None, [], 3, "text", dict(metrics=[1]), dict(metrics=None)]
PARTS = [None, {}, [], 3, dict(prior=3), {"../whole/prior": ""}, dict(vocoder=None), dict(codebook="x", prior="y")]
ABOUT = [("module", m) for m in ("foleybook..os", "foleybook.../../x", "foleybook.nowhere", "foleybook.__main__", "os.path", 3, None)] + [
    ("format", f) for f in (99, 0, "2", None, True)] + [("model", m) for m in ("Cascade", "VQVAE", "Generator", "Path", None, [])] + [
    ("config", c) for c in (None, [], {}, 3)] + [("foleybook", "99.0"), ("foleybook", [1])]


def numbers(value, path=()):
    "Where the numbers of a JSON value are"
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if isinstance(value, (int, float)) and not isinstance(value, bool): yield path
    for key, inner in items: yield from numbers(inner, (*path, key))


def _set(about, path, value):
    for key in path[:-1]: about = about[key]
    about[path[-1]] = value


def hostile(whole, target, k):
    "A copy of a model folder as a stranger could have made it, with a hash that fits; what was done to it"
    rng = np.random.default_rng(k)
    shutil.copytree(whole, target)
    pick = lambda values: values[int(rng.integers(len(values)))]  # noqa: E731
    file = pick(sorted(target.rglob("*.json")))
    about, kind = json.loads(file.read_text()), int(rng.integers(8))
    if kind <= 2:
        path, value = pick([*numbers(about["config"])]), pick(HUGE)
        _set(about["config"], path, value)
        did = f"{'.'.join(map(str, path))}={value:.3g}"
    elif kind == 3:
        lists = [p[:-1] for p in numbers(about["config"]) if isinstance(p[-1], int)] or [("labels",)]
        path, value = pick(lists), pick([[], [0], [2**40], [1] * 10**5, None])
        _set(about["config"], path, value)
        did = f"{'.'.join(map(str, path))}={str(value)[:20]}"
    elif kind == 4: about["card"] = did = pick(CARDS)
    elif kind == 5: about["parts"] = did = pick(PARTS)
    elif kind == 6:
        name, value = pick(ABOUT)
        about[name], did = value, f"{name}={value!r}"
    else:
        weights, did = pick(sorted(target.rglob("*.safetensors"))), pick(["pipe", "link", "folder", "loop"])
        weights.unlink()
        if did == "pipe": os.mkfifo(weights)
        elif did == "link": weights.symlink_to("/dev/zero")
        elif did == "folder": weights.mkdir()
        else: weights.symlink_to(weights.name)
        return f"{weights.relative_to(target)}: {did}"
    about["config_hash"] = config_hash([about["model"], about["config"]])
    file.write_text(json.dumps(about))
    return f"{file.relative_to(target)}: {did}"


class Payload:
    "Writes a file when it is unpickled: nothing may ever do that"

    def __init__(self, mark): self.mark = str(mark)
    def __reduce__(self): return Path.touch, (Path(self.mark),)


def _header(text, rest=b""): return struct.pack("<Q", len(text)) + text + rest


def _zip(name, data):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as z: z.writestr(name, data)
    return out.getvalue()


def _saved(value, **options):
    out = io.BytesIO()
    torch.save(value, out, **options)
    return out.getvalue()


def weights(folder, mark):
    "24 files that claim to hold weights; whoever runs what is in one makes the file `mark`"
    wide = dict(dtype="F32", shape=[2**20, 2**20], data_offsets=[0, 2**42])
    small = dict(dtype="F32", shape=[4], data_offsets=[0, 16])
    good = {"a.weight": torch.randn(4, 4), "b": torch.zeros(3)}
    save_file(good, folder / "good.safetensors")
    whole = (folder / "good.safetensors").read_bytes()
    made = {
        "empty.pt": b"", "empty.safetensors": b"", "noise.pt": np.random.default_rng(0).bytes(5000), "text.pt": b"not weights\n" * 99,
        "payload.pkl": pickle.dumps(Payload(mark)), "payload.pt": _saved({"model": Payload(mark)}),
        "payload_old.pt": _saved({"model": Payload(mark)}, _use_new_zipfile_serialization=False),
        "payload_in_weights.pt": _saved(good | {"args": Payload(mark)}), "list.pt": _saved([1, 2, 3]), "nothing.pt": _saved(None),
        "number.pt": _saved(3.5), "deep.pt": _saved({"a": {"b": {"c": {}}}}), "odd_keys.pt": _saved({1: torch.ones(2), (2, 3): torch.ones(2), None: 1}),
        "claims_terabytes.pt": _saved({"conv_pre.weight": torch.zeros(1).expand(2**20, 2**20)}), "nan.pt": _saved({"a": torch.full((3,), float("nan"))}),
        "sparse.pt": _saved({"a": torch.eye(3).to_sparse()}), "cut.pt": _saved(good)[:-300], "bomb.pt": _zip("archive/data.pkl", bytes(2**26)),
        "huge_header.safetensors": struct.pack("<Q", 2**60) + b"{}", "no_json.safetensors": _header(b"{" * 64),
        "wide.safetensors": _header(json.dumps(dict(a=wide)).encode(), bytes(16)), "cut.safetensors": whole[:-8],
        "overlap.safetensors": _header(json.dumps(dict(a=small, b=small)).encode(), bytes(16)),
        "other_keys.safetensors": whole}
    for name, data in made.items(): (folder / name).write_bytes(data)
    return [folder / name for name in made]

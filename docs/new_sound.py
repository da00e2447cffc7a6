"""The generator as a program for the page "A new sound": model and runtime as scripts, so that it works from a disk, too.

onnxruntime-web comes from the npm registry while the site is built; a reader's browser asks no network. Where npm or the
extra `[export]` cannot be had, the page says that it was built without the model.
"""
import base64
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

VERSION = "1.30.0"  # of onnxruntime-web
MODEL, STEPS, ROUNDS = "foley", 8, 16  # fewer calls and rounds than `sample` has: nobody likes to wait in a browser
KEPT = ("ort.wasm.min.js", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")


def runtime(folder):
    "Fetch onnxruntime-web into a folder by npm; its files by name"
    done = subprocess.run(["npm", "pack", f"onnxruntime-web@{VERSION}", "--silent"], cwd=folder, capture_output=True, text=True, timeout=300)
    packed = sorted(Path(folder).glob("onnxruntime-web-*.tgz"))
    if done.returncode or not packed:
        raise OSError(f"npm pack onnxruntime-web gave nothing: {done.stderr.strip()[-200:]}")
    with tarfile.open(packed[0]) as whole:
        return {name: whole.extractfile(f"package/dist/{name}").read() for name in KEPT}


def licence():
    "The text of ONNX Runtime's licence, out of its wheel, which is of the same project"
    found = [f for f in files("onnxruntime") if Path(str(f)).name in ("LICENSE", "LICENSE.txt")]
    if not found:
        raise FileNotFoundError("onnxruntime holds no LICENSE")
    return found[0].read_text()


def about(model):
    "What the page shows before anything is loaded"
    return dict(labels=list(model.labels), seconds=model.default_seconds, level=bool(model.optional_tracks))


def program(model, path, **asked):
    "Export the model, and tell what the page has to know of it"
    import onnx
    from foleybook.apps.export_generator import export_generator

    export_generator(model, path, **asked)
    proto = onnx.load(path)
    told = {p.key: p.value for p in proto.metadata_props}
    inputs = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in proto.graph.input}
    return dict(labels=json.loads(told["labels"]), rate=int(told["sample_rate"]), hop=model.mel.hop_length, licence=told["licence"], inputs=inputs)


def write(folder, **asked):
    "Write runtime, model and licences; what the page shows at first; {} and a word where something is missing"
    text = lambda data: base64.b64encode(data).decode()
    try:
        import foleybook as fb
        from foleybook.core.generator import shipped_models

        terms, model = licence(), fb.load(MODEL)
        with tempfile.TemporaryDirectory() as d:
            run = runtime(d)
            held = program(model, Path(d) / "model.onnx", **(dict(steps=STEPS, rounds=ROUNDS) | asked))
            weights = (Path(d) / "model.onnx").read_bytes()
    except (OSError, ImportError, PackageNotFoundError, ValueError, subprocess.SubprocessError) as e:
        print(f"The page \"A new sound\" is built without the model: {e}", file=sys.stderr)
        return {}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / KEPT[0]).write_bytes(run[KEPT[0]])
    (folder / "runtime.js").write_text(f"window.foleybookProgram = {{loader: {json.dumps(text(run[KEPT[1]]))}, runtime: {json.dumps(text(run[KEPT[2]]))}}};\n")
    (folder / "model.js").write_text(f"Object.assign(window.foleybookProgram, {json.dumps(held)}, {{model: {json.dumps(text(weights))}}});\n")
    (folder / "LICENSE-onnxruntime.txt").write_text(terms)
    shutil.copy(shipped_models()[MODEL] / "clips.csv", folder)
    (folder / "about.js").write_text(f"window.foleybookAbout = {json.dumps(about(model))};\n")
    return about(model)

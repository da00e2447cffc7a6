"Parameter files against paramManager"
import json

from golden_kinds import assert_close, check


@check("mtcrnn.param_resample")
def param_resample(case):
    import tempfile
    from pathlib import Path

    from foleybook.core.clip_tables import load_params, resample_params, resample_track

    with tempfile.TemporaryDirectory() as d:
        file = Path(d) / "a.params"
        file.write_text(case.meta["config"].get("file_text") or case.meta["file_text"])
        params = load_params(file)
    assert params == case.config["params_json"] == json.loads(case.meta["file_text"])
    out, track = case.outputs, case.inputs["external"].numpy()
    names = [k for k in params if k != "meta"]
    spans = dict(all=(None, None), chunk=(0.31, 0.31 + 33 / 40), extrapolated=(1.8, 2.4))
    for span, (start, end) in spans.items():
        for name in names:
            want = out.get(f"{span}_{name}")
            if want is not None:
                got = resample_params(params, [name], len(want), start, end)[:, 0]
                assert_close(got, want, 1e-12, f"{span} {name}")
    for key, rates in dict(ext=(10, 137), ext_down=(7, 3)).items():
        x, y = resample_track(track, *rates)
        assert_close(x, out[f"{key}_x"], 1e-12, f"{key} times")
        assert_close(y, out[f"{key}_y"], 1e-12, key)

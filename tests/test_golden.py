"""Compare with numbers that the published implementations gave.

Every json below `FOLEYBOOK_GOLDEN` (default `tests/golden`) is one case: the json names its `kind`, the safetensors file
beside it holds inputs `in.*`, weights `sd.*` and outputs `out.*`. The check of a kind lives in `tests/golden_kinds`;
a kind without a check fails.
"""
import json
import os
from pathlib import Path

import pytest
from golden_kinds import CHECKS, Case

ROOT = Path(os.environ.get("FOLEYBOOK_GOLDEN") or Path(__file__).parent / "golden")
CASES = [(p, json.loads(p.read_text())) for p in sorted(ROOT.rglob("*.json"))]


@pytest.mark.parametrize("path,meta", [pytest.param(p, m, id=f"{m['kind']}/{p.stem}") for p, m in CASES])
def test_golden(path, meta):
    assert meta["kind"] in CHECKS, f"{path}: no check is written for kind {meta['kind']!r}"
    CHECKS[meta["kind"]](Case(path, meta))


def test_cases_are_found():
    assert CASES, f"no golden case below {ROOT}"


@pytest.mark.parametrize("path,meta", [c for c in CASES if c[1]["kind"] == "foley.audyn_pixelsnail"][:1])
def test_dropout_is_no_matter_of_logits(path, meta):
    other = json.loads(json.dumps(meta))
    other.get("config", other)["dropout"] = 0.2
    CHECKS[meta["kind"]](Case(path, other))

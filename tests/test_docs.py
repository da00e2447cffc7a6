"""The built site: every notebook has a page, links lead somewhere, nothing comes from a network, widgets show.

The first of these tests builds the site, warnings being errors, unless it is newer than all that it is made from.
"""
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from stage import only_imports, published, what_it_is

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
SITE = ROOT / "docs" / "_site"
NOTEBOOKS = sorted((ROOT / "nbs").rglob("[!_]*.ipynb"))
CHROMIUM = next(filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome", "chrome"])), None)
each_notebook = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)


def is_current():
    "Is the site newer than all that it is made from? A site is there only if it was built without a warning"
    made = SITE / "searchindex.js"
    parts = [*(ROOT / "nbs").rglob("*.ipynb"), ROOT / "nbs" / "sidebar.yml", *(ROOT / "foleybook").rglob("*.py"), *(ROOT / "docs").glob("*.py"), ROOT / "settings.ini",
             ROOT / "docs" / "benchmarks.json", ROOT / "docs" / "faults.json", *(ROOT / "docs" / "_static").iterdir(), *(ROOT / "docs" / "images").iterdir()]
    return made.exists() and made.stat().st_mtime > max(p.stat().st_mtime for p in parts)


@pytest.fixture(scope="session")
def site():
    "Build the site where it is not current"
    if not is_current():
        done = subprocess.run([sys.executable, str(ROOT / "docs" / "build.py")], capture_output=True, text=True, cwd=ROOT)
        if done.returncode or not is_current():
            pytest.fail(f"docs/build.py ended with {done.returncode}:\n{(done.stdout + done.stderr)[-6000:]}", pytrace=False)
    return SITE


def test_site_builds_without_a_warning(site):
    assert is_current() and len(list(site.glob("*.html"))) > len(NOTEBOOKS)


def page_of(notebook):
    "The page that a notebook becomes"
    *shelf, name = notebook.relative_to(ROOT / "nbs").with_suffix("").parts
    return SITE / f"{'.'.join([*shelf, re.sub(r'^[0-9]+_', '', name)])}.html"


class Links(HTMLParser):
    "Collects what a page loads, where it leads and which anchors it has"

    def __init__(self, path):
        super().__init__()
        self.loads, self.leads, self.anchors = [], [], {""}
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.anchors |= {attrs[k] for k in ("id", "name") if attrs.get(k)}
        if tag == "a":
            self.leads += [attrs["href"]] if attrs.get("href") else []
        elif tag == "link":
            if attrs.get("rel") not in ("canonical", "author"):
                self.loads += [attrs["href"]] if attrs.get("href") else []
        else:
            self.loads += [attrs[k] for k in ("src", "data", "poster") if attrs.get(k)]


@pytest.fixture(scope="module")
def pages(site):
    "path -> Links, of every page"
    return {p: Links(p) for p in sorted(SITE.rglob("*.html"))}


@each_notebook
def test_notebook_has_page(site, notebook):
    assert page_of(notebook).exists(), f"{notebook.name} has no page. Is it a notebook with a title cell?"


def test_nothing_is_loaded_from_a_network(pages):
    outside = [(p.name, u[:80]) for p, links in pages.items() for u in links.loads
               if urlsplit(u).scheme not in ("", "data") or u.startswith("//")]
    styles = [(p.name, u) for p in SITE.rglob("*.css") for u in re.findall(r"url\(['\"]?(https?:[^)]*)", p.read_text())]
    assert not outside + styles


def test_links_lead_somewhere(pages):
    broken = []
    for path, links in pages.items():
        for url in links.leads + links.loads:
            parts = urlsplit(url)
            if parts.scheme:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchors = pages[target].anchors if target in pages else {parts.fragment}
            if not target.exists() or unquote(parts.fragment) not in anchors:
                broken.append((path.name, url[:80]))
    assert not broken


def test_no_placeholder_address_is_left(pages):
    "settings.ini names a host that does not exist: every link to it has to have been made relative"
    assert not [(p.name, u) for p, links in pages.items() for u in links.leads if ".invalid" in u]


def test_every_definition_has_a_source_link(pages):
    names = [".".join(p.relative_to(ROOT / "foleybook").with_suffix("").parts) for p in (ROOT / "foleybook").rglob("[!_]*.py")]
    modules = [n for n in names if (SITE / f"{n}.html").exists()]
    for module in modules:
        text = (ROOT / "foleybook" / f"{module.replace('.', '/')}.py").read_text()
        named = re.search(r"^__all__ = \[(.*?)\]", text, re.M | re.S)
        public = set(re.findall(r"^(?:class|def) ([A-Za-z]\w*)", text, re.M)) & set(re.findall(r"\w+", named[1] if named else ""))
        linked = [u for u in pages[SITE / f"{module}.html"].leads if u.startswith(f"source/{module}.html#L-")]
        assert bool(linked) == bool(public), f"{module}: {len(public)} public names, {len(linked)} source links"


def test_the_api_page_begins_with_the_package(pages):
    words = " ".join(Reading(SITE / "api.html").words)
    assert "load Open whatever model a folder holds" in words and "train Train a model by a recipe" in words
    assert "judge.evaluator.html#judge-evaluator-evaluate" in pages[SITE / "api.html"].leads


def test_search_index(site):
    index = json.loads(re.search(r"Search\.setIndex\((.*)\)", (SITE / "searchindex.js").read_text(), re.S)[1])
    assert len(index["docnames"]) >= len(NOTEBOOKS) and "foleybook" in index["terms"]


# ---- what a reader sees first ----

TITLE = re.compile(r"# [^\n]+\n+> [^\n]+\n*")


def cells_of(notebook):
    "(kind, text) of the cells of a notebook"
    return [(c["cell_type"], "".join(c["source"])) for c in json.loads(notebook.read_text())["cells"]]


class Reading(HTMLParser):
    "The words of a page's article, and its code: shown at once or folded"

    def __init__(self, path):
        super().__init__()
        self.words, self.open, self.folded, self.depth, self.code = [], [], [], 0, None
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        kind = dict(attrs).get("class") or ""
        self.depth += tag == "details" and (self.depth > 0 or "hide" in kind.split())
        if tag == "pre":
            self.code = ""

    def handle_endtag(self, tag):
        self.depth -= tag == "details" and self.depth > 0
        if tag == "pre" and self.code is not None:
            (self.folded if self.depth else self.open).append(self.code.strip())
            self.code = None

    def handle_data(self, data):
        self.words += re.findall(r"\w+", data)
        if self.code is not None:
            self.code += data


@each_notebook
def test_first_cell_is_title_and_promise(notebook):
    "All else in it would not be on the page: nbdev's front-matter step takes the title and the line behind `>`"
    kind, text = cells_of(notebook)[0]
    assert kind == "markdown" and TITLE.fullmatch(text), "put the prose into the second cell"


@each_notebook
def test_first_words_are_on_the_page(site, notebook):
    text = "\n\n".join(text for kind, text in cells_of(notebook) if kind == "markdown")
    text = re.sub(r"^# [^\n]+\n+(> [^\n]+\n+)?", "", text)
    first = next(p for p in text.split("\n\n") if not p.startswith(("#", "!", "|", "`")))
    plain = re.sub(r"\]\([^)]*\)", "", first).split("$")[0]
    words = re.findall(r"\w+", plain.replace("_", " "))
    shown = " ".join(" ".join(Reading(page_of(notebook)).words).replace("_", " ").split())
    assert len(words) > 5 and " ".join(words) in shown, f"the page lacks: {first[:80]}"


def folded_in(notebook):
    "(cells whose code is folded on the page, exported cells whose code is open)"
    fold, show, level = [], [], 0
    for kind, text in cells_of(notebook):
        if kind == "markdown":
            level = published(text, level) if notebook.name[0].isdigit() else 0
            continue
        marks = re.findall(r"^#\s*\|\s*(.*?)\s*$", text, re.M)
        code = re.sub(r"^#\s*\|.*\n?", "", text, flags=re.M).strip()
        if {"hide", "default_exp", "echo: false", "include: false"} & {m.split()[0] if ":" not in m else m for m in marks} or not code:
            continue
        if "exporti" in marks or "code-fold: true" in marks or level or only_imports(code):
            fold.append(code)
        elif "export" in marks:
            show.append(code)
    return fold, show


@each_notebook
def test_imports_helpers_and_published_weights_are_folded(site, notebook):
    fold, show = folded_in(notebook)
    page = Reading(page_of(notebook))
    assert all(" ".join(re.findall(r"\w+", what_it_is(code))) in " ".join(page.words) for code in fold)
    assert not [c[:60] for c in fold if c not in page.folded] and not [c[:60] for c in show if c not in page.open]


def test_chapters_have_something_to_fold():
    "The test above is about cells that are there: imports, private helpers, published weights, and marked ones"
    counts = {n.stem: len(folded_in(n)[0]) for n in NOTEBOOKS if n.name[0].isdigit()}
    assert all(counts.values()), counts


@pytest.mark.parametrize("texts,levels", [
    (["## A", "## Published weights", "words\n### Deeper", "## B"], [0, 2, 2, 0]),
    (["## Published checkpoints\n\n```\n# a comment\n```", "# C"], [2, 0]), (["Published weights", "## Weights"], [0, 0])])
def test_the_published_section_ends_at_the_next_heading(texts, levels):
    level, found = 0, []
    for text in texts:
        level = published(text, level)
        found.append(level)
    assert found == levels


def test_sidebar_lists_every_notebook(pages):
    listed = yaml.safe_load((ROOT / "nbs" / "sidebar.yml").read_text())["website"]["sidebar"]["contents"]
    sections = {item["section"]: item["contents"] for item in listed if isinstance(item, dict)}
    names = {"index.ipynb", *sum(sections.values(), [])}
    assert not {str(n.relative_to(ROOT / "nbs")) for n in NOTEBOOKS} - names, "give it a place in nbs/sidebar.yml"
    text = (SITE / "index.html").read_text()
    at = [text.index(f">{caption}<") for caption in sections] + [text.index(">Reference<")]
    for (caption, notebooks), start, end in zip(sections.items(), at, at[1:]):
        there = [page_of(ROOT / "nbs" / n).name for n in notebooks if (ROOT / "nbs" / n).exists()]
        assert re.findall(r'href="([\w.]+\.html)"', text[start:end]) == there, caption


def first_page_with(mark):
    "The first notebook with an output like this and its page; skips where there is none"
    for notebook in NOTEBOOKS:
        cells = json.loads(notebook.read_text())["cells"]
        if any(mark in json.dumps(c.get("outputs", "")) for c in cells):
            return page_of(notebook)
    pytest.skip(f"no notebook has an output with {mark} yet")


def dom(page, folder):
    "The page after its scripts have run in a browser without a window"
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: players and widgets were not looked at in a browser")
    quiet = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
             "--disable-component-update", "--disable-sync"]
    done = subprocess.run([CHROMIUM, "--headless", *quiet, f"--user-data-dir={folder}", "--virtual-time-budget=10000",
                           "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_player_in_browser(tmp_path):
    assert re.search(r"<audio[^>]*controls", dom(first_page_with("<audio"), tmp_path))


def test_widget_in_browser(tmp_path):
    text = dom(first_page_with("application/vnd.jupyter.widget-view+json"), tmp_path)
    assert re.search(r'class="[^"]*widget-(slider|dropdown|button|inline-hbox)', text), "no control was drawn"
    assert not re.search(r'class="[^"]*jupyter-widgets-error-widget', text), "a widget could not be drawn"


def test_formula_in_browser(tmp_path):
    page = next((p for p in map(page_of, NOTEBOOKS) if 'class="math' in p.read_text()), None)
    if page is None:
        pytest.skip("no page has a formula yet")
    assert "<mjx-container" in dom(page, tmp_path)


def test_cards_front_page_and_record_give_the_same_figures():
    "One measurement, written by docs/measure.py wherever it stands"
    import measure

    record = json.loads((ROOT / "docs/leaderboard.json").read_text())
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in measure.MODELS:
        folder = ROOT / "foleybook/weights" / name
        file = next(f for f in (folder / "pipeline.json", folder / "config.json") if f.is_file())
        told = json.loads(file.read_text())["card"]["metrics"]
        assert told == measure.metrics(record, name)
        card = (folder / "README.md").read_text(encoding="utf-8")
        for figure, value in told.items():
            assert f"| {figure} | {f'{value:.4g}' if isinstance(value, float) else value} |" in card
        assert "100 clips of 4 s against 80 recordings of 4 s (esc10), heard by aiSFX" in told["measured on"]
    for head, figures in measure.lines(record):
        assert f"| {head} | {' | '.join(figures)} |" in page


def test_closing_boxes_are_what_the_record_gives():
    "Figures of chapters come from docs/leaderboard.json"
    import boxes

    rows = json.loads((ROOT / "docs/leaderboard.json").read_text())["rows"]
    table = boxes.filled("Before.\n<!-- box: foley -->\n\n| stale | 1 |\n\nAfter.", rows)
    assert "stale" not in table and table.count("\n|---") == 1 and table.endswith("\nAfter.") and boxes.filled(table, rows) == table
    assert [path.name for path, have, wanted in boxes.chapters(rows) if have != wanted] == [], "run python docs/boxes.py"

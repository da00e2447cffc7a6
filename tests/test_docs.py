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
from chromium import Browser
from foleybook.core.control_tracks import onset_samples
from foleybook.core.generator import Pretrained
from foleybook.multitier_rnn import generate
from stage import is_private, only_imports, open_in, published, what_it_is

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
SITE = ROOT / "docs" / "_site"
NOTEBOOKS = sorted((ROOT / "nbs").rglob("[!_]*.ipynb"))
CHROMIUM = next(filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome", "chrome"])), None)
each_notebook = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)


def is_current():
    "Is the site newer than all that it is made from? A site is there only if it was built without a warning"
    made = SITE / "searchindex.js"
    parts = [*(ROOT / "nbs").rglob("*.ipynb"), ROOT / "nbs" / "sidebar.yml", *(ROOT / "foleybook").rglob("*.py"), *{*(ROOT / "docs").glob("*.py")} - {ROOT / "docs/pages.py"}, ROOT / "settings.ini",
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
    assert "load Open whatever model a folder holds" in words and "train Train a model by a recipe" in words and "evaluate as there" not in words
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


class Prose(HTMLParser):
    "What a page says outside code and formulas"
    silent = {"pre", "code", "script", "style", "svg", "title"}
    single = {"br", "img", "input", "meta", "link", "hr", "source", "path", "use"}

    def __init__(self, path):
        super().__init__()
        self.open, self.said = [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        if tag not in self.single:
            self.open.append((tag, tag in self.silent or "math" in (dict(attrs).get("class") or "")))

    def handle_endtag(self, tag):
        while self.open and self.open.pop()[0] != tag:
            pass

    def handle_data(self, data):
        if not any(silent for _, silent in self.open):
            self.said.append(data)


def test_dollars_are_seen_in_prose_and_not_in_code(tmp_path):
    page = tmp_path / "page.html"
    page.write_text('<p>five <br>$x<code>$y</code><span class="math">$z$</span> end</p><pre>$HOME</pre>')
    assert [s.strip() for s in Prose(page).said if s.strip()] == ["five", "$x", "end"]


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
        helper = "exporti" in marks and (is_private(code) or not notebook.name[0].isdigit())
        if helper or "code-fold: true" in marks or level or only_imports(code):
            fold.append(code)
        elif {"export", "exporti"} & {*marks}:
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
    assert f"is right {record['rows']['foley']['told_apart']:.0%} of the time".replace("%", " %") in page


def test_tables_of_what_was_tried_are_what_the_records_give():
    "docs/tried.py and docs/equal.py print them, from docs/tried.json and docs/equal.json"
    import equal
    import tried

    sampled, trained = (json.loads(module.RECORD.read_text()) for module in (tried, equal))
    heads = dict(board="", stages="noise")
    tables = [[*tried.judged_lines(sampled[part], head)] for part, head in heads.items()] + [[*equal.lines(trained)]]
    assert len(tables) == 3 and len(tables[0]) > 7 and min(map(len, tables)) > 4
    text = "".join("".join(c["source"]) + "\n" for c in json.loads((ROOT / "nbs/core/painting.ipynb").read_text())["cells"])
    missing = [t[2] for t in tables if "\n".join(t) not in text]
    assert not missing, "run python docs/tried.py --table and docs/equal.py --table, and put them into core/painting"


def test_closing_boxes_are_what_the_record_gives():
    "Figures of chapters come from docs/leaderboard.json"
    import boxes

    rows = json.loads((ROOT / "docs/leaderboard.json").read_text())["rows"]
    table = boxes.filled("Before.\n<!-- box: foley -->\n\n| stale | 1 |\n\nAfter.", rows)
    assert "stale" not in table and table.count("\n|---") == 1 and table.endswith("\nAfter.") and boxes.filled(table, rows) == table
    assert [path.name for path, have, wanted in boxes.chapters(rows) if have != wanted] == [], "run python docs/boxes.py"


# ---- in a browser: what is seen, pressed and heard ----

CHAPTERS = [n for n in NOTEBOOKS if n.name[0].isdigit()]
WIDE = """[...document.querySelectorAll('div.cell_input pre, article > section pre')].filter(
  e => e.offsetParent && (e.scrollWidth > e.clientWidth + 1 || e.parentNode.scrollWidth > e.parentNode.clientWidth + 1)).map(
  e => e.textContent.split('\\n').sort((a, b) => b.length - a.length)[0])"""


@pytest.fixture(scope="module")
def browser(site, tmp_path_factory):
    "One Chromium for all pages; skips where there is none"
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: pages were not looked at in a browser")
    with Browser(tmp_path_factory.mktemp("chromium"), 1400, 900) as page:
        yield page


def opened(browser, page, width=1400, height=900):
    "A page in a window of some size"
    browser("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
    browser.open(page.as_uri(), "document.readyState == 'complete'")


def test_the_front_page_sounds_before_it_is_read(browser):
    "Recordings and three models, three kinds each, are heard without scrolling; four of the newer kinds follow"
    opened(browser, SITE / "index.html")
    bottoms = browser.value("[...document.querySelectorAll('audio')].map(a => a.getBoundingClientRect().bottom)")
    assert len(bottoms) == 16 and max(bottoms[:12]) <= 900, bottoms


def test_the_front_page_makes_a_new_sound(browser):
    "A press on the front page itself: nothing of the model is loaded before, a sound is there after"
    if not (SITE / "_static/vendor/new_sound/about.js").exists():
        pytest.skip("this copy of the site was built without the model: its runtime could not be fetched")
    opened(browser, SITE / "index.html")
    browser.wait("document.querySelectorAll('.new-sound-kinds button').length == 30")
    assert not browser.value("[...document.scripts].some(s => s.src.endsWith('model.js'))")
    browser.value("document.querySelector('.new-sound-kinds button:nth-child(10)').click()")
    browser.wait("document.querySelectorAll('.new-sound-take audio').length == 1", 150)
    assert browser.value("document.querySelector('.new-sound-take a').download") == "dog_bark.wav"


@pytest.mark.parametrize("notebook", CHAPTERS, ids=lambda p: p.stem)
def test_no_code_box_scrolls_sideways(browser, notebook):
    opened(browser, page_of(notebook), 1280)
    assert browser.value(WIDE) == []


@pytest.mark.parametrize("notebook", [ROOT / "nbs/index.ipynb", *CHAPTERS], ids=lambda p: p.stem)
def test_players_are_wide_enough_for_a_thumb(browser, notebook):
    opened(browser, page_of(notebook), 420)
    narrow = browser.value("[...document.querySelectorAll('audio')].filter(a => a.offsetParent).map(a => a.getBoundingClientRect().width).filter(w => w < 215)")
    beyond = browser.value("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert narrow == [] and beyond <= 0


def test_terms_and_formulas_leave_no_marks_in_the_text(pages):
    "A term that hovers is a link, never letters of one; a formula is drawn, never dollars"
    here = [p for p in pages if p.parent == SITE]
    marked = [p.name for p in here if "&lt;a class=" in p.read_text(encoding="utf-8")]
    dollars = {p.name: found for p in here if (found := [s for s in Prose(p).said if "$" in s])}
    links = {p.name: found for p in here if (found := [s for s in Prose(p).said if re.search(r"\]\([\w./:#-]+\)", s)])}
    assert marked == [] and dollars == {} and links == {}


def test_chapters_are_numbered_and_lead_on():
    for notebook in CHAPTERS:
        text = page_of(notebook).read_text(encoding="utf-8")
        assert re.search(rf"<title>{notebook.name[:2]} ", text), notebook.name
        assert ("<strong>Next: " in text) == (notebook != CHAPTERS[-1]) and ("<strong>Before: " in text) == (notebook != CHAPTERS[0])
        assert re.search(r"<strong>(Next|Before): <a[^>]*>.*?</a>\.</strong> \S", text), "a way on has a promise"


def test_pages_are_light_and_sounds_lie_beside_them(site):
    "A sound is a file that every page that plays it shares"
    heavy = {p.name: p.stat().st_size for p in site.glob("*.html") if p.stat().st_size > 1.2e6}
    files = {p.name for p in (site / "_static" / "sounds").iterdir()}
    played = set(re.findall(r"_static/sounds/(\w+\.mp3)", (site / "listen.html").read_text()))
    assert not heavy and len(files) > 100 and played <= files and len(played) > 100
    # what widgets hold stays with them: quotes are escaped there
    assert not [p.name for p in site.glob("*.html") if 'src="data:audio/mpeg' in p.read_text(encoding="utf-8")]


def test_notebooks_open_elsewhere_where_one_says_where():
    links = open_in("03_vocoders.ipynb", "me/foley@next")
    assert "github/me/foley/blob/next/nbs/03_vocoders.ipynb" in links and "gh/me/foley/next?labpath=nbs/03_vocoders.ipynb" in links
    assert "%pip install git+https://github.com/me/foley@next" in links and "@main" in open_in("03_vocoders.ipynb", "me/foley")
    assert open_in("03_vocoders.ipynb", "") == ""
    with pytest.raises(ValueError, match="OWNER/NAME"):
        open_in("03_vocoders.ipynb", "https://somewhere/else")


def test_programs_that_read_find_a_list_of_pages(site):
    text = (site / "llms.txt").read_text(encoding="utf-8")
    assert all((site / name).exists() for name in re.findall(r"\]\(([^)]+)\)", text))
    assert all(page_of(n).name in text for n in NOTEBOOKS if n.stem != "index")


@each_notebook
def test_no_output_names_the_machine_it_was_made_on(notebook):
    outputs = json.dumps([c.get("outputs") for c in json.loads(notebook.read_text())["cells"]])
    assert not re.findall(r"/(?:work|home|root|site-packages)/\S{,60}", outputs)


POPS = "document.querySelector('.fb-in-page')"


@pytest.fixture(scope="module")
def pops():
    return Pretrained.from_pretrained(ROOT / "foleybook" / "weights" / "pops").set_precision("int8")


def as_in_the_page(tier):
    "The tier with the weights that the page has: rounded to 8 bits"
    import torch
    from foleybook.multitier_rnn import gru_weights

    w, twin = gru_weights(tier), type(tier)(tier.config)
    twin.load_state_dict(tier.state_dict())
    for name, m in (("weight_ih", w.enter), ("weight_hh", w.state)):
        for k in range(tier.config.n_layers):
            getattr(twin.gru, f"{name}_l{k}").data = torch.from_numpy((m.weight[k] * m.scale[k]).T)
    twin.output.weight.data = torch.from_numpy((w.out.weight[0] * w.out.scale[0]).T)
    return twin


@pytest.mark.parametrize("k", [0, 1])
def test_pops_in_the_page_are_the_networks_of_chapter_11(browser, pops, k):
    "Logits within a thousandth, and the same codes for the same random numbers"
    import torch

    opened(browser, page_of(ROOT / "nbs/guides/pops_in_your_browser.ipynb"))
    browser.wait(f"{POPS}.tools !== undefined")
    tier, g = pops.tiers[k], torch.Generator().manual_seed(k)
    codes = torch.randint(tier.config.channels, (1, 300), generator=g)
    beside = torch.rand(1, 300, 1, generator=g) if k == 0 else (torch.rand(1, 300, 1, generator=g) < .2).float()
    rows = tier.rows(codes, beside)
    with torch.no_grad():
        wanted = as_in_the_page(tier)(rows)[0][0]
    told = json.dumps([codes[0].tolist(), beside[0, :, 0].tolist()])
    made = torch.tensor(browser.value(f"""(([codes, beside]) => {{
      const {{Tier, told}} = {POPS}.tools, tier = new Tier(told.tiers[{k}]);
      return codes.map((code, at) => [...tier.step(code, [beside[at]])]);
    }})({told})"""))
    assert (made - wanted).abs().max() < 1e-3
    uniforms = torch.rand(300, 1, dtype=torch.float64, generator=g)
    first = tier.rows(tier.silence(1)[:, None], beside[:, :1])
    drawn = generate(tier, first, beside, uniforms)[0][0]
    told = json.dumps([uniforms[:, 0].tolist(), beside[0, :, 0].tolist()])
    here = browser.value(f"""(([uniforms, beside]) => {{
      const {{Tier, told}} = {POPS}.tools, tier = new Tier(told.tiers[{k}]);
      return uniforms.map((u, at) => (tier.next([beside[at]], u), tier.last));
    }})({told})""")
    assert here == drawn.tolist()


def test_pops_in_the_page_follow_the_knob(browser):
    "Pressed, heard, turned up, stopped; the page is opened from the disk"
    import torch

    opened(browser, page_of(ROOT / "nbs/guides/pops_in_your_browser.ipynb"))
    browser.wait(f"{POPS}.tools !== undefined")
    browser.click(".fb-in-page button")
    counted = []
    for value in (0, 1):
        browser.value(f"(i => {{ i.value = {value}; i.oninput(); {POPS}.heard.length = 0; }})({POPS}.querySelector('input'))")
        browser.wait(f"{POPS}.heard.length >= 60", 120)  # 40 ms each
        x = torch.tensor(browser.value(f"{POPS}.heard.slice(10, 60).flatMap(b => [...b])"))
        counted.append(len(onset_samples(x, 8000, 3e-3, 3.)) / (len(x) / 8000))
        assert .05 < x.abs().max() <= 1
    assert 2.5 <= counted[0] <= 6.5 and 26 <= counted[1] <= 38, counted
    browser.click(".fb-in-page button")
    assert browser.value(f"{POPS}.querySelector('button').textContent") == "Start"
    before = browser.value(f"new Promise(f => setTimeout(() => f({POPS}.heard.length), 300))")
    assert browser.value(f"new Promise(f => setTimeout(() => f({POPS}.heard.length), 300))") == before


# ---- chapters in short, and what moves on them ----

MOST_SCREENS = 26
SCREENS = json.loads((ROOT / "docs" / "pages.json").read_text())["pages"]


@pytest.mark.parametrize("notebook", CHAPTERS, ids=lambda p: p.stem)
def test_a_chapter_keeps_to_its_length(browser, notebook):
    "Screens of 1400 x 900: about what docs/pages.json says, and never more than MOST_SCREENS"
    opened(browser, page_of(notebook))
    screens = browser.value("document.documentElement.scrollHeight / innerHeight")
    told = SCREENS[page_of(notebook).name]
    assert screens <= MOST_SCREENS and abs(screens - told["screens"]) <= 3, "run python docs/pages.py"
    assert abs(page_of(notebook).stat().st_size / 1000 - told["html_kb"]) <= 100


def test_long_code_opens_by_a_press(browser):
    "Short at first, whole after a press, and whole on every page after the link at the title"
    opened(browser, page_of(ROOT / "nbs/03_vocoders.ipynb"))
    box = "document.querySelector('.fb-long')"
    browser.value("localStorage.clear()")
    opened(browser, page_of(ROOT / "nbs/03_vocoders.ipynb"))
    short, whole = browser.value(f"[{box}.clientHeight, {box}.querySelector('pre').scrollHeight]")
    more = f"{box}.parentNode.querySelector('.fb-more')"
    told = int(browser.value(f"parseInt({more}.textContent)"))
    lines = browser.value(f"{box}.querySelector('pre').textContent.trimEnd().split('\\n').length")
    assert short < whole and told < lines
    browser.value(f"{more}.click()")
    assert browser.value(f"{box}.clientHeight") >= whole
    browser.value("document.querySelector('.fb-all-code').click()")
    assert browser.value("[...document.querySelectorAll('.fb-long')].every(b => b.classList.contains('fb-open'))")
    opened(browser, page_of(ROOT / "nbs/07_transformer.ipynb"))
    assert browser.value("document.querySelectorAll('.fb-long').length > 5 && document.querySelectorAll('.fb-long:not(.fb-open)').length == 0")
    browser.value("localStorage.clear()")


def test_solutions_are_folded_with_what_they_show(browser):
    opened(browser, page_of(ROOT / "nbs/00_audio_features.ipynb"))
    closed = browser.value("""[...document.querySelectorAll('details.hide')].filter(
      d => d.querySelector('summary').textContent.includes('solution')).map(d => [d.open, d.querySelectorAll('.cell_output').length])""")
    assert len(closed) >= 3 and all(not is_open and shown for is_open, shown in closed)


SLIDERS = [("00_audio_features", "Griffin-Lim", 5), ("00_audio_features", "bands", 5), ("02_training", "Which weights", 6), ("04_codebooks", "the dog in", 3),
           ("05_pixelsnail", "order", 5), ("05_pixelsnail", "one bark, drawn", 8), ("08_diffwave", "a bark, guidance 3", 3),
           ("10_spectrogram_diffusion", "strength", 4), ("12_evaluation", "Noise below the sound", 6)]


@pytest.mark.parametrize("stem,title,steps", SLIDERS)
def test_sliders_move_without_a_kernel(browser, stem, title, steps):
    "At every step another sound lies under the one player that is seen, and what is said changes with it"
    opened(browser, page_of(ROOT / f"nbs/{stem}.ipynb"))
    heard = browser.value(f"""(input => Array.from({{length: +input.max + 1}}, (_, k) => {{
      input.value = k; input.oninput();
      const box = input.closest('.fb-slider'), seen = [...box.querySelectorAll('.fb-step')].filter(e => !e.hidden);
      return [seen.length, seen[0].querySelector('audio').getAttribute('src'), box.querySelector('output').textContent];
    }}))(document.querySelector('.fb-slider input[aria-label="{title}"]'))""")
    assert len(heard) == steps and {n for n, _, _ in heard} == {1}
    assert len({src for _, src, _ in heard}) == steps == len({told for _, _, told in heard})
    assert all((SITE / src).stat().st_size > 1000 for _, src, _ in heard)


def test_points_of_k_means_are_dragged(browser):
    "A step lowers the error; a point pulled away by the mouse raises it"
    opened(browser, page_of(ROOT / "nbs/04_codebooks.ipynb"))
    error = "parseFloat(document.querySelector('.fb-kmeans output').textContent.split(' ')[1])"
    at_first = browser.value(error)
    for _ in range(4):
        browser.value("document.querySelector('.fb-kmeans button').click()")
    settled = browser.value(error)
    assert settled < at_first
    browser.value("document.querySelector('.fb-kmeans').scrollIntoView({block: 'center', behavior: 'instant'})")
    x, y, left, top = browser.value("""(() => { const b = document.querySelector('.fb-kmeans circle').getBoundingClientRect(),
      f = document.querySelector('.fb-kmeans svg').getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2, f.x, f.y] })()""")
    for kind, px, py in (("mousePressed", x, y), ("mouseMoved", left + 3, top + 3), ("mouseReleased", left + 3, top + 3)):
        browser("Input.dispatchMouseEvent", type=kind, x=px, y=py, button="left", buttons=int(kind != "mouseReleased"), clickCount=1)
    assert browser.value(error) != settled


def test_controls_that_need_python_are_at_rest(browser):
    "A control that moves and computes nothing is worse than none"
    opened(browser, page_of(ROOT / "nbs/12_evaluation.ipynb"))
    control = ":is(.widget-slider, .widget-dropdown, .widget-button)"
    browser.wait(f"document.querySelector('.jupyter-widgets-view {control}') !== null")
    assert browser.wait(f"[...document.querySelectorAll('.jupyter-widgets-view {control}')].every(e => e.closest('[inert]'))")
    assert browser.value("[...document.querySelectorAll('.jupyter-widgets-view audio')].every(a => !a.closest('[inert]'))")


WITH_WIDGETS = [n for n in NOTEBOOKS if '"application/vnd.jupyter.widget-view+json"' in n.read_text()]


@pytest.mark.parametrize("notebook", WITH_WIDGETS, ids=lambda p: p.stem)
def test_a_panel_shows_what_it_made_or_leads_to_what_makes_sound_here(browser, notebook):
    opened(browser, page_of(notebook))
    browser.wait("document.querySelectorAll('.jupyter-widgets-view + .widget-note').length > 0")
    browser.wait("""[...document.querySelectorAll('.jupyter-widgets-view')].every(v => v.querySelector('audio, img, svg, pre, table')
      || v.nextElementSibling.querySelector('a[href="guides.new_sound.html"]'))""", 20)


@pytest.mark.parametrize("name", ["index", "audio_features", "spectrogram_diffusion", "glossary", "guides.which_model", "listen", "guides.new_sound"])
def test_nothing_is_wider_than_a_phone(browser, name):
    opened(browser, SITE / f"{name}.html", 420)
    assert browser.value("document.documentElement.scrollWidth") <= 420


def test_no_white_paper_in_dark_mode(browser):
    "Plots are turned around, spectrograms keep their colours"
    browser("Emulation.setEmulatedMedia", features=[dict(name="prefers-color-scheme", value="dark")])
    opened(browser, page_of(ROOT / "nbs/03_vocoders.ipynb"))
    filters = browser.value("[...document.querySelectorAll('div.cell_output img.plot')].map(i => getComputedStyle(i).filter)")
    maps = browser.value("[...document.querySelectorAll('div.cell_output img:not(.plot)')].map(i => getComputedStyle(i).filter)")
    browser("Emulation.setEmulatedMedia", features=[dict(name="prefers-color-scheme", value="light")])
    assert filters and all("invert" in f for f in filters) and maps and not any("invert" in f for f in maps)


def test_a_page_says_which_models_it_cannot_run(pops):
    from foleybook.apps.in_page import tier_text
    from foleybook.multitier_rnn import AudioTier, AudioTierConfig

    with pytest.raises(ValueError, match="foleybook play"):
        tier_text(AudioTier(AudioTierConfig(input_size=256, hidden_size=8, n_layers=1)))
    assert sum(len(json.dumps(tier_text(t))) for t in pops.tiers) < 200_000

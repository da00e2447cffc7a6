"""Turn the notebooks into pages that Sphinx reads: titles, anchors, checked links, source pages, API table,
benchmarks, faults survived, sidebar"""
import ast
import base64
import hashlib
import io
import json
import re
import shutil
from functools import cache
from html import escape
from pathlib import Path

import numpy as np
import yaml
from execnb.nbio import mk_cell, read_nb, write_nb
from fastcore.parallel import parallel
from nbdev import serve_drv
from nbdev.config import get_config
from nbdev.doclinks import nbglob
from nbdev.processors import FilterDefaults, exec_show_docs, rm_export
from nbdev.showdoc import showdoc_nm
from PIL import Image
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

TAGS = {"echo: false": "remove-input", "output: false": "remove-output", "include: false": "remove-cell",
        "code-fold: true": "hide-input", "code-fold: show": "hide-input"}  # folded input opens by a click
PUBLISHED = re.compile(r"^(#+) Published (?:weights|checkpoints)", re.M)  # a section whose code is folded in chapters
CALLOUTS = dict(note="note", tip="tip", warning="warning", important="important", caution="caution")


def is_private(source):
    "Does a cell define names that begin with `_` and no others?"
    names = re.findall(r"^(?:async )?(?:def|class) (\w+)|^(\w+)(?:\s*,\s*\w+)* = ", source, re.M)
    return all((a or b).startswith("_") for a, b in names)


def rm_hidden(cell):
    "Remove hidden cells; exported ones stay, for here the code is what the reader came for, private ones folded"
    if cell.directives_ and cell.directives_.keys() & {"hide", "default_exp"}:
        del cell["source"]
    elif cell.directives_ and "exporti" in cell.directives_:
        fold(cell)
        cell.metadata["taught"] = not is_private(cell.source) and "code-fold:" not in cell.directives_


def fold(cell):
    "Show only that there is code; a click shows the code"
    tags = cell.metadata.setdefault("tags", [])
    if not {*tags} & {*TAGS.values()}:
        tags.append("hide-input")


def only_imports(source):
    "Is this a cell of imports?"
    try:
        statements = ast.parse(source).body
    except SyntaxError:  # a cell with a line of shell
        return False
    return bool(statements) and all(isinstance(s, (ast.Import, ast.ImportFrom)) for s in statements)


def is_solution(source):
    "Is this the answer to an exercise? Its code and what it shows are folded together"
    return bool(re.match(r"\s*# solution\b", source))


def what_it_is(source):
    "What a reader is told of folded code"
    if only_imports(source):
        return "imports"
    if is_solution(source):
        return "solution"
    names = re.findall(r"^(?:def|class) (\w+)|^(\w+) = ", source, re.M)
    return ", ".join(a or b for a, b in names) or "code"


def picture(output):
    "The bytes of a picture that a cell shows, if it does"
    data = output.get("data", {})
    found = next((data[k] for k in ("image/png", "image/jpeg") if k in data), None)
    return base64.b64decode("".join(found)) if found else None


def is_plot(data):
    "Is a picture mostly white paper? Then its colours may be turned around in dark mode; spectrograms keep theirs"
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    return bool((pixels.min(-1) > 235).mean() > .8)


def published(text, level):
    "Level of the heading of the section on published weights, if this text begins it or goes on in it, else 0"
    for hashes, rest in re.findall(r"^(#+)( .*)", re.sub(r"(?s)```.*?```", "", text), re.M):
        if PUBLISHED.match(hashes + rest):
            level = len(hashes)
        elif len(hashes) <= level:
            level = 0
    return level


def benchmarks(kept, pages=()):
    "The page of what `foleybook bench --out docs/benchmarks.json` wrote; rooms that are among `pages` lead there"
    machine, ceiling, rows = kept["machine"], kept["ceiling"], kept["rows"]

    def plain(text):
        return re.sub(r"([\\|$*_<`\[\]])", r"\\\1", text or "-")

    def number(v, form=".4g"):
        return "-" if v is None else format(v, form)

    about = {"made": machine["made"], "processor": f"{machine['processor']}, {machine['cores']} cores",
             "features found": ", ".join(machine["features"]), "threads used": machine["threads"],
             "torch": f"{machine['torch']}, kernels for {machine['torch_kernels']}",
             "float32 products": f"{ceiling['gflops']:.0f} GFLOP/s", "bf16 products": f"{ceiling['gflops_bf16']:.0f} GFLOP/s",
             "memory": f"{ceiling['gbytes_per_s']:.1f} GB/s"}
    slower = "" if ceiling["gflops_bf16"] >= ceiling["gflops"] else " On this machine bf16 is the slower of the two."
    parts = ["# Benchmarks", "*How fast, compared with what, and is it the same?*",
             "Ours and the reference took turns in one process; the times are medians of processor time, the ratio is reference / ours. "
             "The share is that of the best rate that one thread of this machine reaches in matrix products or in reading "
             f"memory, as measured in the same run.{slower} `foleybook bench` measures your machine.",
             "\n".join(["| machine | |", "|---|---|", *(f"| {k} | {plain(str(v))} |" for k, v in about.items())])]
    for room in dict.fromkeys(r["room"] for r in rows):
        lines = ["| job | ours | reference | unit | ratio | share | compared with | exactness |", "|---|--:|--:|---|--:|--:|---|---|"]
        for r in (r for r in rows if r["room"] == room):
            cells = [plain(r["job"]), number(r["ours"]), number(r["reference_time"]), r["unit"], number(r["ratio"], ".3g"),
                     number(r["share"], ".0%"), plain(r["reference"]), plain(r["exactness"])]
            lines.append(f"| {' | '.join(cells)} |")
        then = kept.get("earlier", {}).get(room)
        about = [f"An earlier run, {then['machine']['made']}, one thread of {plain(then['machine']['processor'])} ({', '.join(map(plain, then['machine']['features']))}): "
                 f"{then['ceiling']['gflops']:.0f} GFLOP/s in float32, {then['ceiling']['gflops_bf16']:.0f} in bf16."] if then else []
        about += [f"Explained in [{plain(room)}]({room}.ipynb)."] if room in pages else []
        parts += [f"## {plain(room)}", *([" ".join(about)] if about else []), "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def faults(kept):
    "The page of what `make faults` wrote"
    lines = ["| what is done to it | tried | survived |", "|---|--:|--:|"]
    lines += [f"| {r['what']} | {r['tried']:,} | {r['survived']:,} |" for r in kept["rows"] if r["tried"]]
    tried, survived = (sum(r[k] for r in kept["rows"]) for k in ("tried", "survived"))
    return "\n\n".join([
        "# Faults", "*What happens when things go wrong?*",
        "Files lie, disks fill up, plugs are pulled. Each row is one kind of fault, tried many times at places drawn by chance. It counts as "
        "survived when the answer was right, or an error of this book told the file and what to do; when nothing saved before was lost; when "
        "the same command, typed again, ended where an undisturbed one ends, byte for byte; and when it took no more than 20 seconds a "
        "file and 2 GB of memory.", "\n".join(lines),
        f"{survived:,} of {tried:,}, as of {kept['made']}. `make faults` tries again, and a smaller form is part of `make test`."]) + "\n"


CHAPTER = re.compile(r"(?<![\w/\[-])([Cc]hapters? )(\d\d)((?:(?:,| and|, and| or| to) \d\d)*)(?!\w|\.\d)")
FENCED = re.compile(r"(?s)(```.*?```|`[^`\n]*`|\$\$.*?\$\$|\$[^$\n]*\$|!?\[[^\]\n]*\]\([^)\s]*\)|<[^>\n]*>)")  # code, formulas, links, tags


def outside(text, change):
    "A text with everything changed but its code, formulas, links and tags"
    return "".join(part if k % 2 else change(part) for k, part in enumerate(FENCED.split(text)))


def chapter_links(text, pages):
    "Every mention of a chapter by its number made a link; `pages` is number -> name of the page"
    def one(number):
        return f"[{number}]({pages[number]}.ipynb)" if number in pages else number

    def mention(match):
        rest = re.sub(r"\d\d", lambda m: one(m[0]), match[3])
        first = f"[{match[1]}{match[2]}]({pages[match[2]]}.ipynb)" if match[2] in pages else match[1] + match[2]
        return first + rest

    return outside(text, lambda part: CHAPTER.sub(mention, part))


def terms_of(folder):
    "docs/glossary.yml: term -> sentence"
    return yaml.safe_load((folder / "glossary.yml").read_text(encoding="utf-8"))


def anchor(term):
    return "term-" + re.sub(r"\W+", "-", term.lower()).strip("-")


def hovering(text, terms, seen):
    "The first mention of each term on a page leads to the glossary and tells its sentence when one points at it"
    def change(part):
        for term, sentence in terms.items():
            found = None if term in seen else re.search(rf"(?<![\w-]){re.escape(term)}s?(?![\w-])", part)
            if found:
                seen.add(term)
                held.append(f'<a class="term" href="glossary.html#{anchor(term)}" title="{escape(sentence)}">{found[0]}</a>')
                part = f"{part[:found.start()]}\0{len(held) - 1}\0{part[found.end():]}"
        return part

    held, lines, fenced = [], [], False
    for line in text.split("\n"):
        fenced ^= line.lstrip().startswith("```")  # a block of code goes over many lines
        kept = fenced or re.match(r"\s*(#|\||:::|\(|---|```)", line)
        lines.append(line if kept else outside(line, change))
    return re.sub(r"\0(\d+)\0", lambda m: held[int(m[1])], "\n".join(lines))


def glossary(terms):
    "The page of all terms"
    rows = [f'<dt id="{anchor(t)}">{escape(t)}</dt><dd>{escape(s)}</dd>' for t, s in sorted(terms.items(), key=lambda x: x[0].lower())]
    return f"# Glossary\n\n*The words of the field, a sentence each.*\n\n<dl class=\"glossary\">{''.join(rows)}</dl>\n"


def open_in(notebook, repository):
    "Links that open a notebook in Colab and in Binder; nothing where no repository is given"
    if not repository:
        return ""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", repository):
        raise ValueError(f"--open-in {repository}: give OWNER/NAME or OWNER/NAME@BRANCH, as on GitHub")
    name, _, branch = repository.partition("@")
    branch = branch or "main"
    colab = f"https://colab.research.google.com/github/{name}/blob/{branch}/nbs/{notebook}"
    first = f"`%pip install git+https://github.com/{name}@{branch}`"  # Colab knows no package of a notebook; Binder installs the whole repository
    return f"[Open in Colab]({colab}), with {first} as its first cell · [Open in Binder](https://mybinder.org/v2/gh/{name}/{branch}?labpath=nbs/{notebook})"


SOUND = re.compile(r"data:audio/mpeg;base64,([\w+/=]+)")


def sounds_beside(html, folder):
    "A page's HTML with its sounds as files in `folder`, one for all pages that play it; loaded when they are played"
    def one(match):
        sound = base64.b64decode(match[1])
        file = folder / f"{hashlib.sha256(sound).hexdigest()[:16]}.mp3"
        folder.mkdir(parents=True, exist_ok=True)
        file.write_bytes(sound)
        return f"_static/sounds/{file.name}"

    return SOUND.sub(one, html)


class BookPages(FilterDefaults):
    "nbdev's own steps towards a page, with the exported code kept and nothing executed"

    def base_procs(self):
        return [rm_hidden if p is rm_export else p for p in super().base_procs() if p is not exec_show_docs]


def process(cfg, folder):
    "Run nbdev's steps on every notebook: links are filled in, definitions are marked, hidden cells go"
    folder.mkdir(parents=True)
    files = sorted(nbglob(cfg.nbs_path, as_path=True))
    parallel(serve_drv.main, [(f, folder / page_file(f, cfg.nbs_path), BookPages) for f in files], n_workers=2, method="spawn")


@cache
def source_lines(path):
    "Name of each definition of a module -> its first line, decorators included; none where there is no such module"
    tree = ast.parse(path.read_text(encoding="utf-8")) if path.exists() else ast.Module([], [])
    defined = [n for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef))]
    return {showdoc_nm(n): min(d.lineno for d in [n, *n.decorator_list]) for n in defined}


def page_file(path, nbs):
    "Name of the page of a notebook: those on a shelf are named after it, `core.files.ipynb`"
    return ".".join(Path(path).resolve().relative_to(Path(nbs).resolve()).parts)


class Page:
    "One processed notebook on its way to being a page"

    def __init__(self, path):
        self.nb = read_nb(path)
        *shelf, name = path.stem.split(".")
        self.notebook = "/".join([*shelf, name]) + ".ipynb"  # below nbs/
        front = self.nb.cells.pop(0).source.strip().strip("-") if self.nb.cells[0].cell_type == "raw" else ""
        self.front = yaml.safe_load(front) or {}
        found = re.match(r"(\d\d)_", name)
        self.number = found[1] if found else ""
        self.name = ".".join([*shelf, Path(self.front.get("output-file", name)).stem.split("/")[-1]])
        self.cells = [c for c in self.nb.cells if "WARNING: THIS FILE WAS AUTOGENERATED" not in c.source]
        self.symbols = [m[1] for c in self.cells if (m := self.documented(c)) and not m[1].startswith("_")]

    @property
    def title(self):
        "With its number, where it is a chapter"
        return f"{self.number} {self.front.get('title', self.name)}".strip()

    @property
    def promise(self):
        return self.front.get("description", "")

    def documented(self, cell):
        "The `show_doc` call that this cell is, if it is one"
        return cell.cell_type == "code" and re.search(r"^show_doc\(([\w.]+)", cell.source, re.M)


class Book:
    "All pages; knows where every symbol is described"

    def __init__(self, cfg, processed, folder, repository=""):
        self.cfg, self.folder, self.repository = cfg, folder, repository
        self.site = re.escape(cfg.doc_host + cfg.doc_baseurl.rstrip("/"))
        self.pages = [Page(p) for p in sorted(processed.glob("*.ipynb"))]
        for data in (o["data"] for p in self.pages for c in p.cells for o in c.get("outputs") or [] if "text/html" in o.get("data", {})):
            data["text/html"] = sounds_beside("".join(data["text/html"]), folder / "_static" / "sounds")
        self.page_of = {p.notebook: p.name for p in self.pages}
        self.chapters = {p.number: p.name for p in self.pages if p.number}
        self.terms = terms_of(cfg.config_path / "docs")
        self.labels = {f"{p.name}.{s}".lower() for p in self.pages for s in p.symbols}

    def link(self, match):
        "A link into our own site, made relative and sure to lead somewhere: the symbol, its class, or its page"
        text, page, symbol = match[1], match[2].replace("/", "."), match[3] or ""
        for name in (f"{page}.{symbol}", f"{page}.{symbol.split('.')[0]}"):
            if name in self.labels:
                return f"[{text}](#{name})"
        return f"[{text}]({page}.ipynb)" if page in self.page_of.values() else text

    def neighbour(self, match):
        "A link to another notebook, made a link to its page; plain text while that notebook does not exist"
        target = next((n for n in (match[2], *self.page_of) if n in self.page_of and n.split("/")[-1] == match[2].split("/")[-1]), None)
        return f"[{match[1]}]({self.page_of[target]}.ipynb)" if target else match[1]

    def markdown(self, text):
        "From nbdev's and Quarto's markdown to MyST's"
        text = re.sub(r"\[\[([^\]\n]*)\]\([^)\s]+\)\](?=\()", r"[\1]", text)  # nbdev links names inside links, too
        text = re.sub(r"(\]\([^)\s]+\))\{[^}\n]*\}", r"\1", text)  # attributes of links
        text = re.sub(rf"\[([^\]\n]*)\]\({self.site}/([\w/-]+)\.html(?:#([\w.]+))?\)", self.link, text)
        text = re.sub(r"\[([^\]\n]*)\]\((?:\.\./)?([\w/]+\.ipynb)(?:#[\w.-]+)?\)", self.neighbour, text)
        text = re.sub(r"(!\[[^\]\n]*\])\((?:\.\./)+docs/images/", r"\1(images/", text)
        text = re.sub(r"(?<!!)\[([^\]\n]*)\]\(\.\./[^)\s]*\)", r"\1", text)  # files that are no pages
        text = re.sub(r"(\$\$)[ \t]*\{#([\w-]+)\}", r"\1 (\2)", text)
        text = re.sub(r"(?<!\S)@(eq-[\w-]+)", r"{eq}`\1`", text)
        text = re.sub(r"^::: *\{\.callout-(\w+)[^}]*\}", lambda m: f":::{{{CALLOUTS[m[1]]}}}", text, flags=re.M)
        return text

    def heading(self, page, symbol):
        "What stands above a definition: its name, its anchor, the way to its source"
        line = source_lines(self.cfg.lib_path / f"{page.name.replace('.', '/')}.py").get(symbol)
        source = f'<a class="src" href="source/{page.name}.html#L-{line}">source</a>\n' if line else ""
        return mk_cell(f"({page.name}.{symbol.lower()})=\n```{{rubric}} {symbol}\n:class: definition\n```\n\n{source}", "markdown")

    def code_cell(self, cell):
        "A code cell with its directives turned into Sphinx's tags"
        lines = cell.source.splitlines(keepends=True)
        while lines and re.match(r"\s*#\s*\|", lines[0]):
            tag = TAGS.get(re.sub(r"\s*#\s*\|\s*", "", lines.pop(0)).strip().lower())
            if tag and tag not in cell.metadata.get("tags", []):
                cell.metadata["tags"] = cell.metadata.get("tags", []) + [tag]
        cell.source = "".join(lines).strip()
        if is_solution(cell.source):
            cell.metadata["tags"] = ["hide-cell"]
        elif only_imports(cell.source):
            fold(cell)
        if any(is_plot(data) for o in cell.outputs or [] if (data := picture(o))):
            cell.metadata["mystnb"] = dict(image=dict(classes="plot"))
        return cell

    def cells(self, page):
        "The cells of a page; the heading of a definition comes before its code"
        done, labelled, seen, level = [], set(), set(), 0  # of the heading of the section on published weights, while inside it
        for cell in page.cells:
            call = page.documented(cell)
            if cell.cell_type == "markdown" and not call:
                level = published(cell.source, level) if page.notebook[0].isdigit() else 0
            if not call:
                if cell.cell_type == "code":
                    cell = self.code_cell(cell)
                    taught = cell.metadata.pop("taught", False)  # in a chapter, a part of a model is read like the model
                    if level:
                        fold(cell)
                    elif taught and page.notebook[0].isdigit():
                        cell.metadata["tags"].remove("hide-input")
                    if {"hide-input", "hide-cell"} & {*cell.metadata.get("tags", [])}:
                        shown = what_it_is(cell.source)
                        cell.metadata.setdefault("mystnb", {}).update(code_prompt_show=shown, code_prompt_hide=shown)
                elif cell.cell_type == "markdown":
                    cell.source = self.markdown(cell.source)
                    if page.name != "index":
                        cell.source = hovering(chapter_links(cell.source, self.chapters), self.terms, seen)
                done.append(cell)
                continue
            if call[1].lower() in labelled or call[1].startswith("_"):
                continue
            labelled.add(call[1].lower())
            done.insert(len(done) - 1, self.heading(page, call[1]))  # nbdev put the call behind the code
        return done

    def write(self):
        "Write every page, the source pages and the API table"
        for page in self.pages:
            title = f"# {page.title}"
            if page.promise:
                title += f"\n\n*{chapter_links(self.markdown(page.promise), self.chapters)}*"
            if page.symbols:
                title += (f"\n\nNotebook `nbs/{page.notebook}`, module "
                          f"[`foleybook.{page.name}`](source/{page.name}.md)")
            if page.name != "index" and (there := open_in(page.notebook, self.repository)):
                title += f"\n\n{there}"
            page.nb.cells = [mk_cell(title, "markdown")] + self.cells(page) + self.onward(page)
            if page.name == "index":
                page.nb.cells.append(mk_cell(self.sidebar(), "markdown"))
            write_nb(page.nb, self.folder / f"{page.name}.ipynb")
        self.sources()
        (self.folder / "glossary.md").write_text(glossary(self.terms), encoding="utf-8")
        (self.folder / "listen.md").write_text(self.listen(), encoding="utf-8")
        (self.folder / "api.md").write_text(self.api())
        kept = json.loads((self.cfg.config_path / "docs" / "benchmarks.json").read_text())
        (self.folder / "benchmarks.md").write_text(benchmarks(kept, self.page_of.values()))
        kept = json.loads((self.cfg.config_path / "docs" / "faults.json").read_text())
        (self.folder / "faults.md").write_text(faults(kept))

    def onward(self, page):
        "At the end of a chapter: the one before and the one after, with what it promises"
        around = {+1: "Next", -1: "Before"}
        found = [(word, self.chapter(int(page.number) + step)) for step, word in around.items()] if page.number else []
        lines = [f"**{word}: [{p.title}]({p.name}.ipynb).** {self.markdown(p.promise)}" for word, p in found if p]
        return [mk_cell("---\n\n" + "\n\n".join(lines), "markdown")] if lines else []

    def chapter(self, number):
        return next((p for p in self.pages if p.number == f"{number:02d}"), None)

    def listen(self):
        "All players of the book on one page, chapter by chapter"
        parts = ["# Listen", "*Every sound of the book, where it is explained one click away.*"]
        for page in self.pages:
            shown = ["".join(o["data"]["text/html"]) for c in page.nb.cells if c.cell_type == "code" for o in c.outputs or []
                     if "<audio" in "".join(o.get("data", {}).get("text/html", ""))] if page.number else []
            if shown:
                tables = "\n\n".join(f"```{{raw}} html\n<div class=\"cell_output\">{h}</div>\n```" for h in map(without_pictures, shown))
                parts += [f"## {page.title}", f"Explained in [{page.title}]({page.name}.ipynb).", tables]
        return "\n\n".join(parts) + "\n"

    def llms(self):
        "What the book holds, for programs that read: https://llmstxt.org"
        lines = ["# foleybook", "", "> " + next(p.promise for p in self.pages if p.name == "index"), "", "## Chapters", ""]
        row = lambda p: f"- [{p.title}]({p.name}.html): {p.promise}"  # noqa: E731
        lines += [row(p) for p in self.pages if p.number] + ["", "## Workshop", ""]
        return "\n".join(lines + [row(p) for p in self.pages if not p.number and p.name != "index"]) + "\n"

    def sidebar(self):
        "nbs/sidebar.yml as Sphinx's tables of contents, without the notebooks that are not there yet"
        listed = yaml.safe_load((self.cfg.nbs_path / "sidebar.yml").read_text())["website"]["sidebar"]["contents"]
        blocks = []
        for item in listed:
            caption, names = (item["section"], item["contents"]) if isinstance(item, dict) else ("", [item])
            pages = [self.page_of[n] for n in names if n in self.page_of and n != "index.ipynb"]
            if pages:
                blocks.append((caption, pages))
        shown = {p for _, pages in blocks for p in pages}
        rest = [p.name for p in self.pages if p.name not in shown and p.name != "index"]
        blocks.append(("Reference", rest + ["listen", "glossary", "benchmarks", "faults", "api"]))
        trees = [["```{toctree}", ":hidden:", *([f":caption: {c}"] if c else []), "", *ps, "```"] for c, ps in blocks]
        return "\n\n".join("\n".join(lines) for lines in trees)

    def sources(self):
        "A page for each module, highlighted, with an anchor on each line"
        (self.folder / "source").mkdir()
        form = HtmlFormatter(linenos="inline", lineanchors="L", anchorlinenos=True, cssclass="highlight")
        for path in sorted(self.cfg.lib_path.rglob("[!_]*.py")):
            inside = path.relative_to(self.cfg.lib_path)
            html = highlight(path.read_text(), PythonLexer(), form)
            fence = "`" * 12
            (self.folder / "source" / f"{'.'.join(inside.with_suffix('').parts)}.md").write_text(
                f"---\norphan: true\nnosearch: true\n---\n# foleybook/{inside}\n\n"
                f'{fence}{{raw}} html\n<div class="source">{html}</div>\n{fence}\n')

    def api(self):
        "A table of every public name: what it is for and where it is explained; methods stand with their class"
        parts = ["# API", "Every public name, with the page that explains it.", "## foleybook", self.package()]
        for page in self.pages:
            told, methods = dict(self.purposes(page)), {}
            for symbol in told:
                owner, _, method = symbol.rpartition(".")
                if owner in told:
                    methods.setdefault(owner, []).append(f"[`{method}`](#{page.name}.{symbol.lower()})")
            rows = [f"| [`{s}`](#{page.name}.{s.lower()}) | {' · '.join(filter(None, [what, *methods.get(s, [])]))} |"
                    for s, what in told.items() if s.rpartition(".")[0] not in told]
            if rows:
                parts += [f"## foleybook.{page.name}", "\n".join(["| name | what it does |", "|---|---|", *rows])]
        return "\n\n".join(parts) + "\n"

    def package(self):
        "A table of what the package itself offers"
        tree = ast.parse((self.cfg.lib_path / "__init__.py").read_text())
        rows = [f"| `{n.name}` | {ast.get_docstring(n)} |" for n in tree.body
                if isinstance(n, ast.FunctionDef) and not n.name.startswith("_")]
        judge = next(p for p in self.pages if p.name == "judge.evaluator")
        rows.append(f"| [`evaluate`](#judge.evaluator.evaluate) | {dict(self.purposes(judge))['evaluate']} |")
        return "\n".join(["| name | what it does |", "|---|---|", *rows])

    def purposes(self, page):
        "(symbol, first line of its docstring) of a page"
        path = self.cfg.lib_path / f"{page.name.replace('.', '/')}.py"
        if not path.exists():
            return
        tree = ast.parse(path.read_text())
        docs = {n.name: (ast.get_docstring(n) or "").split("\n")[0] for n in ast.walk(tree)
                if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
        for symbol in dict.fromkeys(page.symbols):
            told = docs.get(symbol.split(".")[-1], "").replace("|", "\\|")
            yield symbol, told if told.count("$") == 2 else told.replace("$", "\\$")  # two enclose a formula


def without_pictures(html):
    "A table of players without its spectrograms, which would make the page heavy"
    return re.sub(r"<img[^>]*>(<br/?>)?", "", html)


def stage(processed, pages, repository=""):
    "Write everything Sphinx needs, but for its settings, to `pages`; `repository` is told to `open_in`"
    cfg = get_config()
    process(cfg, processed)
    pages.mkdir()
    for images in (cfg.config_path / "docs" / "images", cfg.nbs_path / "images"):
        if images.is_dir():
            shutil.copytree(images, pages / "images", dirs_exist_ok=True)
    book = Book(cfg, processed, pages, repository)
    book.write()
    (pages / "llms.txt").write_text(book.llms(), encoding="utf-8")

"""How long and how heavy each page of the built site is, measured in Chromium: docs/pages.json.

    python docs/build.py && python docs/pages.py
    python docs/pages.py vocoders.html               one page, anew
"""
import json
import sys
import tempfile
from pathlib import Path
from urllib.parse import unquote, urlsplit

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS.parent / "tests"))
WIDTH, HEIGHT = 1400, 900
SEEN = """({
  tall: document.documentElement.scrollHeight, players: document.querySelectorAll('audio').length,
  loads: [...document.querySelectorAll('script[src], link[rel=stylesheet], img')].map(e => e.src || e.href)
})"""


def loaded(urls):
    "Size of the files that a page loads when it is opened, in bytes; sounds come when they are played"
    files = {Path(unquote(urlsplit(u).path)) for u in urls if u.startswith("file:")}
    return sum(f.stat().st_size for f in files if f.is_file())


def measured(browser, page):
    "Screens, players, and thousands of bytes: of the page itself, and with all that it loads"
    browser.open(page.as_uri(), "document.readyState == 'complete'")
    browser.value("new Promise(done => setTimeout(done, 500))")  # formulas and widgets are drawn
    seen, own = browser.value(SEEN), page.stat().st_size
    return dict(screens=round(seen["tall"] / HEIGHT, 1), html_kb=round(own / 1000), loaded_kb=round((own + loaded(seen["loads"])) / 1000),
                players=seen["players"])


def main(names):
    from chromium import Browser
    record = DOCS / "pages.json"
    pages = json.loads(record.read_text())["pages"] if names else {}
    with tempfile.TemporaryDirectory() as folder, Browser(folder, WIDTH, HEIGHT) as browser:
        browser("Emulation.setDeviceMetricsOverride", width=WIDTH, height=HEIGHT, deviceScaleFactor=1, mobile=False)
        for name in names or sorted(p.name for p in (DOCS / "_site").glob("*.html")):
            pages[name] = row = measured(browser, DOCS / "_site" / name)
            print(f"{row['screens']:6.1f} screens {row['html_kb']:6} kB {row['loaded_kb']:6} kB loaded {row['players']:4} players  {name}", flush=True)
    rows = ",\n".join(f"  {json.dumps(name)}: {json.dumps(row)}" for name, row in sorted(pages.items()))
    record.write_text(f'{{"screen": [{WIDTH}, {HEIGHT}],\n "pages": {{\n{rows}\n }}\n}}\n')


if __name__ == "__main__":
    main(sys.argv[1:])

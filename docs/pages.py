"""How long and how heavy each page of the built site is, measured in Chromium: docs/pages.json.

    python docs/build.py && python docs/pages.py
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
  loads: performance.getEntriesByType('resource').map(e => e.name)
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


def main():
    from chromium import Browser
    with tempfile.TemporaryDirectory() as folder, Browser(folder, WIDTH, HEIGHT) as browser:
        browser("Emulation.setDeviceMetricsOverride", width=WIDTH, height=HEIGHT, deviceScaleFactor=1, mobile=False)
        pages = {p.name: measured(browser, p) for p in sorted((DOCS / "_site").glob("*.html"))}
    rows = ",\n".join(f"  {json.dumps(name)}: {json.dumps(row)}" for name, row in pages.items())
    (DOCS / "pages.json").write_text(f'{{"screen": [{WIDTH}, {HEIGHT}],\n "pages": {{\n{rows}\n }}\n}}\n')
    for name, row in sorted(pages.items(), key=lambda x: -x[1]["screens"]):
        print(f"{row['screens']:6.1f} screens {row['html_kb']:6} kB {row['loaded_kb']:6} kB loaded {row['players']:4} players  {name}")


if __name__ == "__main__":
    main()

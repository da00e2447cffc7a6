"""Write README.md from the front page, nbs/index.ipynb: its markdown, with links that work from the top folder.

    python docs/readme.py            write README.md
    python docs/readme.py --check    fail if it is not what the front page gives
"""
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def readme(root=ROOT):
    "What README.md should hold"
    nb = json.loads((root / "nbs" / "index.ipynb").read_text(encoding="utf-8"))
    cells = ("".join(c["source"]).strip() for c in nb["cells"] if c["cell_type"] == "markdown")
    text = "\n\n".join(cells) + "\n"
    text = text.replace("](../", "](")

    def notebook(link):
        "A notebook that is not there yet is named without a link, as on the site"
        return f"[{link[1]}](nbs/{link[2]})" if (root / "nbs" / link[2]).exists() else link[1]

    return re.sub(r"\[([^\]\n]*)\]\(([\w/-]+\.ipynb)\)", notebook, text)


def main():
    "Write README.md, or check it"
    path, text = ROOT / "README.md", readme()
    if "--check" in sys.argv[1:]:
        if path.read_text(encoding="utf-8") != text:
            sys.exit("README.md is not what nbs/index.ipynb gives. Run python docs/readme.py.")
    else:
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

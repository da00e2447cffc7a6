"""Write README.md from the front page, nbs/index.ipynb: its markdown, with links that work from the top folder.

    python docs/readme.py            write README.md
    python docs/readme.py --check    fail if it is not what the front page gives
"""
import json
import re

from generated import ROOT, main


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


if __name__ == "__main__":
    main("README.md", readme(), "nbs/index.ipynb")

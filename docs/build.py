"""Build the site: `make docs`, then open docs/_site/index.html.

    python docs/build.py                              the site
    python docs/build.py --open-in OWNER/NAME@BRANCH  with links that open each notebook in Colab and Binder

MathJax comes out of the sphinx-mathjax-offline wheel and the widgets out of widgetsnbextension, both of which pip has
installed; onnxruntime-web comes from the npm registry, and without it the site is built without one page's buttons (see
new_sound.py). The pages work from the disk, without a network.
"""
import argparse
import os
import shutil
import sys
from importlib.metadata import files
from pathlib import Path

DOCS = Path(__file__).resolve().parent
VENDOR = {  # file on the site: (installed package, end of the path inside it)
    "tex-svg.js": ("sphinx-mathjax-offline", "mathjax/tex-svg.js"),
    "widgets-bundle.js": ("widgetsnbextension", "jupyter-js-widgets/extension.js"),
    "widgets-bundle.js.LICENSE.txt": ("widgetsnbextension", "jupyter-js-widgets/extension.js.LICENSE.txt"),
}


def vendor(folder):
    "Copy the scripts that the pages need out of installed packages"
    folder.mkdir(parents=True)
    for name, (package, end) in VENDOR.items():
        found = [f for f in files(package) if str(f).endswith(end)]
        if not found:
            raise FileNotFoundError(f"{package} holds no {end}. Install the versions in constraints.txt.")
        shutil.copy(found[0].locate(), folder / name)


def build(repository=""):
    "Stage the notebooks and run Sphinx, warnings being errors; returns its exit code"
    from sphinx.cmd.build import main as sphinx
    from new_sound import write as write_program
    from stage import stage
    work, site = DOCS / "_src", DOCS / "_site"
    for old in (work, site):
        shutil.rmtree(old, ignore_errors=True)
    pages, html = work / "pages", work / "html"
    stage(work / "processed", pages, repository)
    shutil.copytree(DOCS / "_static", pages / "_static", dirs_exist_ok=True)
    vendor(pages / "_static" / "vendor")
    write_program(pages / "_static" / "vendor" / "new_sound")
    shutil.copy(DOCS / "conf.py", pages)
    code = sphinx(["-W", "--keep-going", "-q", "-j", "2", "-d", str(work / "doctrees"), "-b", "html", str(pages), str(html)])
    if code == 0:
        html.rename(site)
        print(f"The site is built: open {site / 'index.html'}")
    return code


if __name__ == "__main__":
    asked = argparse.ArgumentParser()
    asked.add_argument("--open-in", default="", metavar="OWNER/NAME@BRANCH", help="where the notebooks lie on GitHub")
    os.chdir(DOCS.parent)
    sys.exit(build(asked.parse_args().open_in))

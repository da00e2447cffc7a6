"Sphinx settings; docs/build.py copies this file beside the staged pages"
project = "foleybook"
author = "foleybook authors"
copyright = "2026, foleybook authors"

extensions = ["myst_nb", "sphinx_copybutton"]
source_suffix = {".ipynb": "myst-nb", ".md": "myst-nb"}
root_doc = "index"
suppress_warnings = [
    "misc.highlighting_failure",  # cells with a line of shell
    "myst.header",  # a definition's heading may stand directly below the title
]

nb_execution_mode = "off"
nb_merge_streams = True
nb_ipywidgets_js = {"widgets.js": {}}
mathjax_path = "vendor/tex-svg.js"
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence"]
myst_heading_anchors = 4

html_theme = "furo"
pygments_dark_style = "github-dark"
html_title = "foleybook"
html_static_path = ["_static"]
html_css_files = ["foleybook.css"]
html_js_files = ["book.js"]
html_show_sourcelink = False
html_copy_source = False
html_extra_path = ["llms.txt"]

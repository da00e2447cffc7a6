"""Thirty kinds: the free clips of ESC-10, and twenty more kinds of ESC-50 (CC0 and CC BY). Licences per clip."""
from _fetch import FetchError, main


def fetch(folder, quiet):
    "Both parts are made by other scripts; this one joins them"
    raise FetchError(f"{folder}: nothing to download. Run esc10.py, put the free clips of ESC-50 and their clips.csv "
                     "into esc50_more/ beside esc10/, and give the folder of both by --from.")


if __name__ == "__main__":
    raise SystemExit(main("free_kinds", __doc__, "read_free_kinds", fetch))

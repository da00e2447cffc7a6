"""One-shots: barks, sneezes, ticks, steps, knocks and clicks, cut at their onsets (CC0 and CC BY). Licences per clip."""
from _fetch import FetchError, main


def fetch(folder, quiet):
    "The recordings are fetched by other scripts; this one says where in them each sound lies"
    raise FetchError(f"{folder}: nothing to download. Run esc10.py, put the free clips of ESC-50 and their clips.csv "
                     "into esc50_more/ beside esc10/, and give the folder of both by --from.")


if __name__ == "__main__":
    raise SystemExit(main("oneshots", __doc__, "read_oneshots", fetch))

"""Write NOTICE: the licence of the code, and the author of every recording that the shipped weights learned from.

    python docs/notice.py            write NOTICE
    python docs/notice.py --check    fail if it is not what the tables beside the weights give
"""
import csv
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEAD = """foleybook
Copyright 2026 foleybook authors

The code and the text of the book are licensed under the Apache License 2.0, see LICENSE.

The weights in foleybook/weights were learned from the recordings below; foleybook/weights/foley/recordings holds
some more, to be heard beside what is generated. The weights are licensed under CC BY 3.0
(https://creativecommons.org/licenses/by/3.0/), each recording as its line says: CC0 stands for
https://creativecommons.org/publicdomain/zero/1.0/, CC-BY for https://creativecommons.org/licenses/by/3.0/. Recordings
were cut, resampled and changed in level. `pops` learned from sounds that the book's own equations made.
"""


def notice(root=ROOT):
    "What NOTICE should hold"
    clips = {}
    for table in sorted((root / "foleybook" / "weights").rglob("*.csv")):
        with open(table, encoding="utf-8", newline="") as f:
            for row in csv.DictReader(f):
                key = row["author"], row["licence"], row["source_url"]
                clips.setdefault(key, set()).add(row["label"])
    lines = [f"{', '.join(sorted(labels))}: {author or 'unknown'}, {licence}, {url}"
             for (author, licence, url), labels in sorted(clips.items(), key=lambda c: (min(c[1]), c[0]))]
    return HEAD + "\n" + "\n".join(lines) + "\n"


def main():
    "Write NOTICE, or check it"
    path, text = ROOT / "NOTICE", notice()
    if "--check" in sys.argv[1:]:
        if path.read_text(encoding="utf-8") != text:
            sys.exit("NOTICE is not what the tables beside the weights give. Run python docs/notice.py.")
    else:
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

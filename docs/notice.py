"""Write NOTICE: the licence of the code, and the author of every recording that the shipped weights learned from.

    python docs/notice.py            write NOTICE
    python docs/notice.py --check    fail if it is not what the tables beside the weights give
"""
import csv

from generated import ROOT, main

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


if __name__ == "__main__":
    main("NOTICE", notice(), "the tables beside the weights")

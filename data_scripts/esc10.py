"""ESC-10: 400 clips of 5 s, 10 classes, 5 folds (Piczak 2015). Licences per clip: CC0, CC BY, 2 x CC Sampling+."""
from _fetch import download, main, unpack

URL = "https://github.com/karolpiczak/ESC-10/archive/553c8f1743b9dba6b282e1323c3ca8fa76923448.zip"


def fetch(folder, quiet):
    "Zip of the last commit that holds the sounds; no checksum is published for it"
    return unpack(download(URL, folder, "ESC-10.zip", quiet=quiet), folder, strip=1)


if __name__ == "__main__":
    raise SystemExit(main("esc10", __doc__, "read_esc", fetch))

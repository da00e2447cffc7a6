"Files of the top folder that are written from others: `main(name, text, source)` writes one, or checks it with --check"
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main(name, text, source):
    "Write the file, or fail if it is not what its source gives"
    path = ROOT / name
    if "--check" not in sys.argv[1:]:
        path.write_text(text, encoding="utf-8")
    elif path.read_text(encoding="utf-8") != text:
        sys.exit(f"{name} is not what {source} gives. Run python docs/{Path(sys.argv[0]).name}.")

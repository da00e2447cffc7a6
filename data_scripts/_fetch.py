"""Download, verify, unpack, write the clip table: what the scripts of this folder share.

A download can be broken off at any time and goes on where it stopped (HTTP Range). Where a checksum is published it is
required; where none is, the sha256 of the first complete download is printed and kept beside the file, and later
downloads must agree with it.
"""
import argparse
import shutil
import sys
import tarfile
import urllib.error
import urllib.request
import warnings
import zipfile
from pathlib import Path

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


class FetchError(RuntimeError):
    "A download or archive that cannot be used: says which, what is wrong and what to do"


def digest(path, kind="sha256"):
    "Hex digest of a file"
    from foleybook.core.files import file_digest

    return file_digest(path, kind)


def verify(path, size=None, md5=None, sha256=None):
    "Raise unless `path` has the published size and checksum, or the recorded one; record it if there is none"
    if size and path.stat().st_size != size:
        raise FetchError(f"{path}: {path.stat().st_size} bytes, {size} expected. Delete it and run again.")
    note, kind, want = path.with_name(path.name + ".sha256"), "md5" if md5 else "sha256", md5 or sha256
    if not want and note.exists():
        want = note.read_text().split()[0]
    have = digest(path, kind)
    if want and have != want:
        raise FetchError(f"{path}: {kind} is {have}, {want} expected. Delete it (and {note.name}) and run again.")
    if not want:
        print(f"{path.name}: no checksum is published; sha256 {have} is recorded in {note.name}")
        note.write_text(f"{have}  {path.name}\n")


def _stream(url, part, quiet):
    "Append what is missing of `url` to `part`; the server's total size, if it says"
    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "foleybook"} | ({"Range": f"bytes={have}-"} if have else {})
    request = urllib.request.Request(url, headers=headers)
    try:
        answer = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as e:
        total = (e.headers.get("Content-Range") or "").rpartition("/")[2]
        if e.code == 416 and total == str(have):  # nothing is missing
            return have
        if e.code == 416:
            part.unlink()
            return _stream(url, part, quiet)
        raise
    with answer:
        if have and answer.status != 206:  # the server cannot resume: from the start
            have = 0
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length else None
        bar = tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=part.stem, disable=quiet)
        with open(part, "ab" if have else "wb") as f, bar:
            while block := answer.read(1 << 18):
                f.write(block)
                bar.update(len(block))
    return total


def download(url, folder, name=None, size=None, md5=None, sha256=None, quiet=False):
    "Fetch `url` into `folder`, going on where an earlier try stopped; the verified file"
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / (name or url.split("?")[0].rpartition("/")[2])
    if not path.exists():
        part = path.with_name(path.name + ".part")
        try:
            total = _stream(url, part, quiet)
        except (urllib.error.URLError, OSError) as e:
            done = f" {part.stat().st_size} bytes are kept: run again to go on." if part.exists() else ""
            raise FetchError(f"{url}: cannot be fetched ({e}).{done} Or fetch it by hand and give --from.") from e
        if total and part.stat().st_size != total:
            raise FetchError(f"{url}: broke off at {part.stat().st_size} of {total} bytes. Run again to go on.")
        part.rename(path)
    verify(path, size, md5, sha256)
    return path


def _inside(name, folder):
    "Path of an archive member below `folder`"
    target = (folder / name).resolve()
    if target != folder.resolve() and folder.resolve() not in target.parents:
        raise FetchError(f"archive member {name!r} would be written outside {folder}. Do not use this archive.")
    return target


def unpack(archive, folder, strip=0):
    "Unpack plain files and folders only, none of them outside `folder`; `strip` leading folders are dropped"
    archive, folder = Path(archive), Path(folder)
    done = folder / f".{archive.name}.unpacked"
    if done.exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    is_zip = zipfile.is_zipfile(archive)
    with zipfile.ZipFile(archive) if is_zip else tarfile.open(archive, "r|*") as a:
        for m in a.infolist() if is_zip else a:
            name = m.filename if is_zip else m.name
            _inside(name, folder)
            rest = Path(*Path(name).parts[strip:])
            if (m.is_dir() if is_zip else m.isdir()) or rest == Path("."):
                continue
            if not is_zip and not m.isfile():
                raise FetchError(f"{archive}: member {name!r} is a link or device. Do not use this archive.")
            target = _inside(rest, folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            with (a.open(m) if is_zip else a.extractfile(m)) as src, open(target, "wb") as out:
                shutil.copyfileobj(src, out)
    done.touch()
    return folder


def main(name, about, reader, fetch, argv=None):
    """Command line of one set: `--from PATH` or `fetch(folder, quiet)`, then the named reader and the table.

    Prints the clips and labels; exit code 1 with one message where something is wrong."""
    p = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--from", dest="source", help="a copy that is already here; nothing is downloaded")
    p.add_argument("--to", default=f"data/{name}", help="folder for the download and the table clips.csv (%(default)s)")
    p.add_argument("--shippable", action="store_true", help="leave out clips that may not be passed on freely")
    p.add_argument("--check", action="store_true", help="decode every file and leave out the bad ones")
    p.add_argument("--quiet", action="store_true", help="print errors only")
    o = p.parse_args(argv)
    from foleybook.core import data_sets
    from foleybook.core.files import TableError

    warnings.showwarning = lambda message, *args, **kwargs: print(message, file=sys.stderr)
    try:
        folder = Path(o.source) if o.source else fetch(Path(o.to), o.quiet)
        table = getattr(data_sets, reader)(folder)
        total = len(table)
        if o.shippable:
            table = table.shippable()
        if o.check:
            table = table.check()
        path = table.save(Path(o.to) / "clips.csv")
    except (FetchError, TableError, OSError, tarfile.TarError, zipfile.BadZipFile) as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    if not o.quiet:
        print(f"{path}: {len(table)} of {total} clips, {len(table.labels)} labels: {', '.join(table.labels[:12])}")
    return 0

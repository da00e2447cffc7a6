"""FSD50K: 51,197 clips (108 hours) of 200 classes, each under a licence of its own (Fonseca et al. 2022). 25 GB to fetch."""
import shutil
import subprocess

from _fetch import FetchError, download, main, unpack

BASE = "https://zenodo.org/records/4060432/files"
SPLIT = {  # a zip in several parts each, with the md5 that Zenodo publishes
    "FSD50K.dev_audio": {
        "z01": "faa7cf4cc076fc34a44a479a5ed862a3", "z02": "8f9b66153e68571164fb1315d00bc7bc",
        "z03": "1196ef47d267a993d30fa98af54b7159", "z04": "d088ac4e11ba53daf9f7574c11cccac9",
        "z05": "81356521aa159accd3c35de22da28c7f", "zip": "c480d119b8f7a7e32fdb58f3ea4d6c5a"},
    "FSD50K.eval_audio": {
        "z01": "3090670eaeecc013ca1ff84fe4442aeb", "zip": "6fa47636c3a3ad5c7dfeba99f2637982"}}
WHOLE = {"FSD50K.ground_truth": "ca27382c195e37d2269c4c866dd73485", "FSD50K.metadata": "b9ea0c829a411c1d42adb9da539ed237"}


def joined(folder, name):
    "One archive of a zip in parts, which Python cannot read: by the program `zip`"
    whole = folder / f"{name}.whole.zip"
    if not whole.exists():
        if not shutil.which("zip"):
            raise FetchError(f"{folder / name}.zip: is in several parts, and the program `zip` that joins them is not "
                             "installed. Install it (`apt install zip`), or unpack by hand and give --from.")
        part = whole.with_suffix(".part")
        part.unlink(missing_ok=True)
        subprocess.run(["zip", "-q", "-s", "0", f"{name}.zip", "--out", part.name], cwd=folder, check=True)
        part.rename(whole)
    return whole


def fetch(folder, quiet):
    "Eight parts of audio, the table of labels, and licence and author of every clip, from Zenodo"
    for name, parts in SPLIT.items():
        for end, md5 in parts.items():
            download(f"{BASE}/{name}.{end}", folder, md5=md5, quiet=quiet)
        unpack(joined(folder, name), folder)
    for name, md5 in WHOLE.items():
        unpack(download(f"{BASE}/{name}.zip", folder, md5=md5, quiet=quiet), folder)
    return folder


if __name__ == "__main__":
    raise SystemExit(main("fsd50k", __doc__, "read_fsd50k", fetch))

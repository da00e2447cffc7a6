"""Procedural sounds with known parameters: pops and seven physically informed kinds. Nothing is downloaded."""
import argparse
import sys

import _fetch  # noqa: F401  (finds the package)


def main(argv=None):
    "Write sounds, parameter files and the table"
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--to", default="data/procedural", help="folder (%(default)s)")
    p.add_argument("--kinds", nargs="*", help="pops, dog_bark, rain, ... (default: all)")
    p.add_argument("--n", type=int, default=40, help="sounds of each kind (%(default)s)")
    p.add_argument("--seconds", type=float, default=4.0, help="length (%(default)s)")
    p.add_argument("--sample-rate", type=int, default=22050, help="Hz (%(default)s)")
    p.add_argument("--seed", type=int, default=0, help="same seed, same set (%(default)s)")
    p.add_argument("--quiet", action="store_true", help="print errors only")
    o = p.parse_args(argv)
    from foleybook.core.files import TableError
    from foleybook.sound_data import make_procedural

    try:
        table = make_procedural(o.to, o.kinds, o.n, o.seconds, o.sample_rate, o.seed, progress=not o.quiet)
    except (TableError, OSError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    if not o.quiet:
        print(f"{o.to}/clips.csv: {len(table)} clips, {len(table.labels)} labels: {', '.join(table.labels)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

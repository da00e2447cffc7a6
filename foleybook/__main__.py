"""`foleybook`, `python -m foleybook` and `torchrun -m foleybook` run the command line of `foleybook.apps.cli`"""
import sys


def main():
    "The program; Ctrl-C is one line from the first import on"
    try:
        from foleybook.apps.cli import main as program

        return program()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())

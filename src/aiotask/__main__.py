"""`python -m aiotask` and the `aiotask` command."""

import sys


def main() -> None:
    """Run the command line and exit with its code."""
    from aiotask.cli.main import run  # noqa: PLC0415 - click is the command line's alone

    sys.exit(run())


if __name__ == "__main__":
    main()

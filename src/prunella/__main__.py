"""The program `prunella`, also as `python -m prunella`."""

from __future__ import annotations

import sys


def main() -> int:
    """Runs the command line; quiet too when it is interrupted while it still loads."""
    try:
        from prunella.cli import main as run

        return run()
    except KeyboardInterrupt:
        sys.stderr.write("error: interrupted\n")
        return 130


if __name__ == "__main__":
    sys.exit(main())

"""`python -m prunella`."""

import sys

from prunella.cli import main

sys.exit(main())

"""Lets the tests here use the helpers of the packed file's own tests."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "packed"))

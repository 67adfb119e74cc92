"""What the product costs against the physical limit: ratios in one run on one machine, never timed tests."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))  # throw-away authorities and tokens are made by the tests' own support

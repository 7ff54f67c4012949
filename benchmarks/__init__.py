"""Measures, never imported by the package. `python -m benchmarks.table1`; the other scripts run as files.

Scripts import each other by their bare names, so that they run either way.
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))

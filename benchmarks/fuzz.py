"""10,000 random inputs for each of the loaders of what comes from outside: params.yaml and the bundle's manifest.

    python benchmarks/fuzz.py

They are read, or refused in one line; anything else fails. The suite runs 50 of each by the same tests.
"""

import os
import subprocess
import sys
from pathlib import Path

if __name__ == "__main__":
    words = [sys.executable, "-m", "pytest", "-m", "fuzz", "--durations=0", *sys.argv[1:]]
    settings = {**os.environ, "HYPOTHESIS_PROFILE": "many"}
    sys.exit(subprocess.run(words, cwd=Path(__file__).parents[1], env=settings, check=False).returncode)

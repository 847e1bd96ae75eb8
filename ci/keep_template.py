"""Keep what `bitladder init` writes at this version, for `bitladder upgrade` of a later one to merge with.

Before the version in src/bitladder/running/version.py is raised: python ci/keep_template.py
"""

import json
from pathlib import Path

from bitladder.commands.init import pipeline_files
from bitladder.running.version import RELEASE

if __name__ == "__main__":
    kept = {name: text for name, text in pipeline_files().items() if name != "task.py"}
    folder = Path(__file__).parents[1] / "src/bitladder/template/versions"
    (folder / f"{RELEASE}.json").write_text(json.dumps(kept, indent=1) + "\n", "utf-8")

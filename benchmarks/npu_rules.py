"""What the rules of htp/ are worth: each rule's tiny network on the NPU, as exported and as repaired.

    python benchmarks/npu_rules.py [--socs SM8650 ...] [--rules batch-norm ...]

Prints a Markdown table. On all SoCs it also puts the rows of these rules into docs/npu_rules.json, of which the guide's
table is made. A row takes about a second.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

from bitladder.running import determinism

SOCS = ["QCS6490", "SM8450", "SM8650", "SM8850"]

FIGURES = Path(__file__).parents[1] / "docs/npu_rules.json"


def main() -> None:
    """Measure every rule at each precision that its network shows it at, on every SoC that takes it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--socs", nargs="+", default=SOCS)
    parser.add_argument("--rules", nargs="+")
    given = parser.parse_args()
    determinism.pin(2)
    from bitladder.htp.registry import RULES
    from bitladder.socs import find_soc
    from bitladder.targets.rule_figures import measure_rule
    from bitladder.targets.workers import worker_pool

    rows = []
    print("| rule | SoC | precision | dB | bytes | ops |\n|---|---|---|---|---|---|")
    for name in given.rules or RULES:
        # A pool for each: a process keeps the contexts that it has run
        with TemporaryDirectory() as folder, worker_pool(1, Path(folder)) as pool:
            for soc in map(find_soc, given.socs):
                for precision in (one for one in RULES[name].example.precisions if one in soc.takes):
                    found = measure_rule(RULES[name], precision, soc, pool)
                    if found:
                        rows.append({"rule": name, "soc": soc.name, "precision": precision, **asdict(found)})
                        print(line(rows[-1]), flush=True)
    if given.socs == SOCS:
        kept = json.loads(FIGURES.read_text("utf-8")) if FIGURES.is_file() else []
        measured = set(given.rules or RULES)
        rows += [row for row in kept if row["rule"] in set(RULES) - measured]
        rows.sort(key=lambda row: list(RULES).index(row["rule"]))
        text = ",\n".join(json.dumps(row) for row in rows)
        FIGURES.write_text(f"[\n{text}\n]\n", "utf-8")


def line(row: dict) -> str:
    """Give a row of the table."""
    ends = [row["before"], row["after"]]
    db = [f"{one['sqnr_db']:.1f}" if one else "refused" for one in ends]
    sizes = [[f"{one[key]:,}" if one else "-" for one in ends] for key in ("memory_bytes", "ops")]
    cells = [row["rule"], row["soc"], row["precision"], *(" -> ".join(pair) for pair in (db, *sizes))]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()

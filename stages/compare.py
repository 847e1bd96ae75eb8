"""compare: all rungs side by side, and which one to ship."""

from dataclasses import asdict

from bitladder.running.stage import Params, run


def main(params: Params) -> None:
    from bitladder.decision.decide import decide
    from bitladder.decision.results import METRICS, read_results, remove_dropped
    from bitladder.report.tables import COLUMNS, SOC_COLUMNS, comparison_rows, soc_rows
    from bitladder.running.files import write_csv, write_json

    remove_dropped(params)
    results = read_results(params)
    decision = asdict(decide(params, results.evals, results.targets, results.socs))
    write_csv(METRICS / "comparison.csv", COLUMNS, comparison_rows(results.evals, results.targets, decision))
    rows = soc_rows(results.evals, results.targets, results.socs)
    write_csv(METRICS / "comparison-socs.csv", SOC_COLUMNS, rows)
    write_json(METRICS / "decision.json", decision)


if __name__ == "__main__":
    run(main)

"""compare: all rungs side by side, and which one to ship."""

from bitladder.decision.decide import decide
from bitladder.decision.results import read_results, read_rung_scores, remove_dropped
from bitladder.params import Params
from bitladder.paths import COMPARISON, COMPARISON_SOCS, DECISION
from bitladder.records import write_record
from bitladder.report.tables import COLUMNS, SOC_COLUMNS, comparison_rows, soc_rows
from bitladder.running.files import write_csv

__all__ = ["main"]


def main(params: Params) -> None:
    """Write metrics/comparison.csv, metrics/comparison-socs.csv and metrics/decision.json."""
    remove_dropped(params)
    results = read_results(params)
    scores = {rung: read_rung_scores(params, rung) for rung in results.targets}
    decision = decide(params, results.evals, results.targets, results.socs, scores)
    write_csv(COMPARISON, COLUMNS, comparison_rows(results.evals, results.targets, results.exports, decision))
    write_csv(COMPARISON_SOCS, SOC_COLUMNS, soc_rows(results.evals, results.targets, results.socs, decision))
    write_record(DECISION, decision)
    print(f"{decision.reason}.")  # noqa: T201

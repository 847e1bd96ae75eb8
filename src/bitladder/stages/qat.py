"""qat@R: a rung trained on where PTQ missed the goal; PTQ's own model where it did not."""

from typing import Any

from bitladder.decision.goals import qat_verdict
from bitladder.decision.left_out import QAT_COLUMNS, leave_qat, of_a_rung, why_left_out
from bitladder.params import Params
from bitladder.paths import RungFiles
from bitladder.records import Evaluation, read_record, write_record
from bitladder.running.files import copy_file, write_csv

__all__ = ["main"]


@of_a_rung(lambda _, rung: why_left_out(RungFiles(rung).ptq_sim), leave_qat)
def main(params: Params, rung: str) -> None:
    """Write build/qat/R and metrics/eval/R.json."""
    files = RungFiles(rung)
    record = read_record(Evaluation, files.ptq_metrics)
    history: list[dict[str, Any]] = []
    needed, why = qat_verdict(params.qat.when, params.goals, record)
    if needed:
        from bitladder.network.model import build_network
        from bitladder.tasks.onnx_model import why_untrained
        from bitladder.tasks.task import load_task

        reason = why_untrained(build_network(load_task(params.task.factory, params.task.args)))
        needed, why = (False, f"not run: {reason}") if reason else (needed, why)
    if needed:
        from bitladder.network.devices import is_main, launch

        if launch(params.qat.processes):
            return  # each of them has run this script
        from bitladder.quantize.qat import train_rung

        trained, history = train_rung(params, rung)
        if not is_main():
            return
        why += "" if trained else "; no epoch beat PTQ on calibration samples by more than chance, so PTQ's model stays"
        record = trained or record
    if record.technique != "qat":
        copy_file(files.ptq_sim, files.sim)
        copy_file(files.ptq_scores, files.scores)
    write_csv(files.qat_history, QAT_COLUMNS, history)
    write_record(files.off_target, record.model_copy(update={"qat": why}))

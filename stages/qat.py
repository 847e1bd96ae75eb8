"""qat@R: a rung trained on where PTQ missed the goal; PTQ's own model where it did not."""

from pathlib import Path
from typing import Any

from bitladder.running.stage import Params, run


def main(params: Params, rung: str) -> None:
    from bitladder.decision.gates import QAT_COLUMNS, is_skipped, skip_qat
    from bitladder.decision.goals import qat_verdict
    from bitladder.running.files import copy_file, read_json, write_csv, write_json

    source, folder = Path("build/ptq") / rung, Path("build/qat") / rung
    if is_skipped(source / "sim.safetensors"):
        skip_qat(rung)
        return
    record = read_json(Path(f"metrics/ptq/{rung}.json"))
    history: list[dict[str, Any]] = []
    needed, why = qat_verdict(params.qat.when, params.goals, record, read_json(Path("metrics/eval/fp32.json")))
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

        trained, history = train_rung(params, rung, source, folder)
        if not is_main():
            return
        why += "" if trained else "; no epoch beat PTQ on the calibration split, so PTQ's model stays"
        record = trained or record
    if record["technique"] != "qat":
        for name in ("sim.safetensors", "outputs.safetensors"):
            copy_file(source / name, folder / name)
    write_csv(Path(f"metrics/qat/{rung}.csv"), QAT_COLUMNS, history)
    write_json(Path(f"metrics/eval/{rung}.json"), {**record, "qat": why})


if __name__ == "__main__":
    run(main, torch=True)

"""sensitivity: which layers cost the metric, weights and activations apart."""

from dataclasses import asdict
from pathlib import Path

from bitladder.running.stage import Params, run


def main(params: Params) -> None:
    from bitladder.network.model import load_split, sample_inputs
    from bitladder.quantize.prepare.prepare import load_prepared
    from bitladder.quantize.sensitivity import measure, summarise
    from bitladder.running.determinism import seed_all
    from bitladder.running.files import write_csv, write_json
    from bitladder.tasks.task import load_task

    seed_all(params.seed)
    task = load_task(params.task.factory, params.task.args)
    # Not the evaluation split: what is chosen by these figures must not have been seen by the ones that are reported
    calibration = load_split(Path("build/data/calibration.safetensors"))
    sample = sample_inputs(calibration)
    rows = measure(
        load_prepared(task, sample, Path("build/baseline/model.safetensors"), params.prepare.exclude),
        sample,
        calibration,
        params.soc.quantsim_config,
        params.sensitivity,
        params.evaluate.batch_size,
        task.metric,
    )
    summary = summarise(rows)
    columns = ("layer", "kind", "what", "bits", "value", "drop", "sqnr_db")
    write_csv(Path("metrics/sensitivity.csv"), columns, map(asdict, rows))
    write_json(Path("metrics/sensitivity.json"), summary)
    print(summary["summary"])  # noqa: T201


if __name__ == "__main__":
    run(main, torch=True)

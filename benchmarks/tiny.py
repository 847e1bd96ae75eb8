"""Which tiny networks each SoC takes, and what of them is float: a layer or a call each, between two layers.

Run: python benchmarks/tiny.py [--soc SM8650 --soc QCS6490] [NET ...]. Prints a Markdown table of what is refused or
float, and how many were taken. `float by the backend` is what its own graph says: export's count must agree with it.
"""

import argparse
import json
import multiprocessing
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pebble import ProcessPool

from bitladder.running import determinism

determinism.pin(1)  # before torch is loaded, which networks() does

from tiny_networks import SAMPLES, networks  # noqa: E402

RUNGS = ((8, 16), (8, 8), (4, 8))
LIMIT_S = 240.0

FLOAT_TYPES = {0x216, 0x232}  # QNN's numbers of FP16 and FP32


def measure(name: str, socs: list[str]) -> list[dict[str, Any]]:
    """Take one network through every rung and SoC: a row each. What is raised, is the row of a network refused."""
    try:
        return take(name, socs)
    except Exception as error:  # of any kind, and some cannot be sent between processes
        return [{"net": name, "rung": "-", "soc": soc, "refused": repr(error)[:200]} for soc in socs]


def take(name: str, socs: list[str]) -> list[dict[str, Any]]:
    """Prepare, quantize, export, repair and compile one network."""
    import torch

    from bitladder.errors import UserError
    from bitladder.export.checks import graph_names
    from bitladder.export.float_tensors import find_float
    from bitladder.export.repairs import repair_file
    from bitladder.network.evaluate import predict, sqnr_db
    from bitladder.network.model import output_names, sample_inputs
    from bitladder.params import RULES
    from bitladder.precision import Precision
    from bitladder.quantize.prepare.prepare import check_equal, prepare
    from bitladder.quantize.sim.sim import build_sim
    from bitladder.socs import find_soc
    from bitladder.tasks.task import Split

    model, inputs = networks()[name]
    split, rows = Split({"input": inputs}, torch.zeros(SAMPLES)), []
    try:
        expected = predict(model.eval(), split, 8, "fp32")
        prepared, _ = prepare(model, sample_inputs(split))
        check_equal(sqnr_db(expected, predict(prepared, split, 8, "prepared")))
    except UserError as error:
        return [{"net": name, "rung": "-", "soc": soc, "refused": str(error)} for soc in socs]
    for bits in RUNGS:
        for soc in socs:
            row: dict[str, Any] = {"net": name, "rung": str(Precision(*bits)), "soc": soc}
            rows.append(row)
            with TemporaryDirectory() as folder:
                path = Path(folder) / "model.onnx"
                try:
                    sim = build_sim(prepared, sample_inputs(split), Precision(*bits), find_soc(soc).quantsim_config)
                    sim.calibrate(split, 8)
                    sim.export_qdq(
                        sample_inputs(split), graph_names(["input"], list(output_names(prepared) or ())), path
                    )
                    repair_file(path, find_soc(soc), tuple(RULES))
                except UserError as error:
                    row["refused"] = str(error)
                    continue
                row["float"] = [f"{one.name} ({one.op})" for one in find_float(path).tensors]
                row |= backend_says(path, find_soc(soc).soc_model)
    return rows


def backend_says(path: Path, soc_model: int) -> dict[str, Any]:
    """Compile, and read from the graph that the backend was given which ops compute in float."""
    import onnxruntime as ort

    from bitladder.targets.backend import _options

    more = {"dump_json_qnn_graph": "1", "json_qnn_graph_dir": str(path.parent)}
    options = _options(soc_model, fp16=False, fallback=False, more=more)
    options.log_severity_level = 4
    options.add_session_config_entry("ep.context_enable", "1")
    options.add_session_config_entry("ep.context_file_path", str(path.parent / "ctx.onnx"))
    try:
        ort.InferenceSession(str(path), options)
    except Exception as error:  # ONNX Runtime's own kinds
        return {"refused": " ".join(str(error).split())[:200]}
    found = []
    for file in path.parent.glob("*.json"):
        graph = json.loads(file.read_text()).get("graph")
        for node, facts in graph["nodes"].items() if graph else ():
            names = facts["input_names"] + facts["output_names"]
            if facts["type"] not in ("Quantize", "Dequantize") and any(
                graph["tensors"][one]["data_type"] in FLOAT_TYPES for one in names
            ):
                found.append(f"{node} ({facts['type']})")
    return {"backend": found}


def main() -> None:
    """Run them in two processes, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("nets", nargs="*", default=list(networks()))
    parser.add_argument("--soc", action="append")
    given = parser.parse_args()
    socs = given.soc or ["SM8650", "QCS6490"]
    rows: list[dict[str, Any]] = []
    print("| network | rung | SoC | float | float by the backend | refused |\n|---|---|---|---|---|---|", flush=True)
    with ProcessPool(2, context=multiprocessing.get_context("spawn")) as pool:
        jobs = {name: pool.schedule(measure, args=(name, socs), timeout=LIMIT_S) for name in given.nets}
        for name, job in jobs.items():
            try:
                found = job.result()
            except Exception as error:  # a process that died or took too long
                found = [{"net": name, "rung": "-", "soc": soc, "refused": repr(error)[:200]} for soc in socs]
            rows += found
            for row in found:
                cells = [", ".join(row.get(key, ())) for key in ("float", "backend")] + [row.get("refused", "")]
                if any(cells):
                    print(f"| {' | '.join([row['net'], row['rung'], row['soc'], *cells])} |", flush=True)
    taken = {
        soc: {(row["net"], row["rung"]) for row in rows if row["soc"] == soc and "refused" not in row} for soc in socs
    }
    counted = Counter(row["soc"] for row in rows)
    for soc in socs:
        print(f"\n{soc}: {len(taken[soc])} of {counted[soc]} taken (a network at a rung)")
    if len(socs) == 2:
        only = sorted(taken[socs[0]] - taken[socs[1]])
        print(f"\n{socs[0]} and not {socs[1]}: {len(only)}: {', '.join(f'{net} at {rung}' for net, rung in only)}")


if __name__ == "__main__":
    main()

"""The default pipeline's work as one script by hand: AIMET, ONNX Runtime and MLflow, without bitladder's stages.

    python benchmarks/by_hand.py [--folder build/by-hand] [--against metrics/comparison.csv]
    python benchmarks/by_hand.py --rung tiny --set ladder.tiny.activations=16     # one rung, on the weights kept before

What benchmarks/pipeline.py holds `dvc repro` against. Run it in a folder with params.yaml. Data, network, loss, metric
and augmentation are the task's (`bitladder.tasks.builtin.mnist`), which its user would have written too; the latency
estimate is the one call of the library that there is for it. All else is here, in one process but for the emulator's.

It does what the stages do, once: where two stages repeat something because they are two processes (building the sim
again, SQNR by layer before and after export), it is not repeated. Left out, as nobody would write them for one run:
checkpoints for a killed run, time limits, the HTML report and its charts, the bill of materials and model card of the
bundle, the context binary's own account of its memory. Of PTQ it knows the two ways to set ranges, min-max and SQNR,
which are enough on the default task; it knows no QAT. Where they are not enough, it stops and says so, since the
pipeline would then do more.

Threads and instruction set are the pipeline's, without which the two would not compute alike; TorchDynamo is imported,
as AIMET does it.
"""

import argparse
import copy
import csv
import hashlib
import json
import logging
import math
import multiprocessing
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

START = time.perf_counter()

THREADS = 2
os.environ.update(
    {
        **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(THREADS)),
        **dict.fromkeys(("OMP_DYNAMIC", "MKL_DYNAMIC"), "FALSE"),
        "GOMP_SPINCOUNT": "20000",
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_CBWR": "COMPATIBLE",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
)

import numpy as np  # noqa: E402
import onnxruntime as ort  # noqa: E402
import onnxruntime_qnn  # noqa: E402

if __name__ == "__main__":  # the emulator's processes need none of this
    import aimet_torch.onnx
    import mlflow
    import onnx
    import torch
    from aimet_torch.batch_norm_fold import fold_all_batch_norms
    from aimet_torch.common.utils import AimetLogger
    from aimet_torch.model_preparer import prepare_model
    from aimet_torch.model_validator.model_validator import ModelValidator
    from aimet_torch.nn import QuantizationMixin
    from aimet_torch.quantsim import QuantizationSimModel
    from aimet_torch.utils import remove_activation_quantizers, remove_all_quantizers, remove_param_quantizers
    from ruamel.yaml import YAML
    from safetensors.torch import load_file, save_file
    from torch import nn

    from bitladder.latency.estimate import estimate
    from bitladder.tasks.builtin.mnist import task as make_task
    from bitladder.tasks.splits import make_splits

PROVIDER = "QNNExecutionProvider"
CONFIG, SOC_MODEL, DEVICE = "htp_v75", 57, "Samsung Galaxy S24"  # of SM8650
LAYER_SAMPLES = 32
RANGES = {"min-max": "tf", "sqnr": "tf_enhanced"}  # the first techniques that the pipeline tries, in AIMET's words
GRAPH: dict[str, Any] = {"input_names": ["image"], "output_names": ["output"], "opset_version": 21, "dynamo": False}

# How far the pipeline's figures may lie from these to be the same; SQNR: in dB
NOISE = {"value": 0.003, "target_value": 0.003, "memory_bytes": 4096, "latency_ms": 0.01, "ops_npu": 0}
NOISE |= dict.fromkeys(("sqnr_db", "target_sqnr_db"), 1.0)

SECONDS: dict[str, float] = {}
"""Of each part of the work, by its name."""


def main() -> None:
    """Run it all, or one rung."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("build/by-hand"), help="takes all that is made")
    parser.add_argument("--against", type=Path, help="a comparison.csv of the pipeline's, to compare the figures with")
    parser.add_argument("--rung", help="only this one, on the weights that a whole run left in the folder")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a change of params.yaml")
    given = parser.parse_args()
    params = read_params(given.set)
    AimetLogger.set_level_for_all_areas(logging.CRITICAL)  # the validator's first findings
    SECONDS["imports"] = time.perf_counter() - START
    given.folder.mkdir(parents=True, exist_ok=True)
    with multiprocessing.get_context("spawn").Pool(params["target"]["workers"]) as pool:
        rows = run(params, given.folder, pool, given.rung)
    write_results(given.folder, rows)
    with timed("track"):
        log_runs(given.folder, params, rows)
    if not given.rung:
        with timed("deploy"):
            deploy(given.folder, params, rows)
    SECONDS["all"] = time.perf_counter() - START
    (given.folder / "seconds.json").write_text(json.dumps(SECONDS, indent=2), "utf-8")
    for name, spent in SECONDS.items():
        print(f"{spent:8.1f} s  {name}")
    if given.against:
        compare_figures(given.against, rows)


def read_params(changes: list[str]) -> dict[str, Any]:
    """Read params.yaml, and change what was asked for."""
    params: dict[str, Any] = YAML(typ="safe").load(Path("params.yaml").read_text("utf-8"))
    for change in changes:
        key, text = change.split("=", 1)
        *parents, last = key.split(".")
        block = params
        for parent in parents:
            block = block[parent]
        block[last] = YAML(typ="safe").load(text)
    return params


@contextmanager
def timed(name: str) -> Iterator[None]:
    """Note how long a part took."""
    start = time.perf_counter()
    yield
    SECONDS[name] = time.perf_counter() - start


def run(params: dict[str, Any], folder: Path, pool: Any, only: str | None) -> list[dict[str, Any]]:
    """Train (or load), prepare, and go down the ladder; give a row for each precision."""
    torch.set_num_threads(THREADS)
    torch.manual_seed(params["seed"])
    task = make_task(**params["task"]["args"])
    with timed("data"):
        splits = make_splits(task, params["seed"])
    evaluation, size = splits["evaluation"], params["evaluate"]["batch_size"]
    images, weights = evaluation.inputs["image"], folder / "weights.safetensors"
    model = task.model()
    with timed("train"):
        if only:
            model.load_state_dict(load_file(weights))
        else:
            train(model, task, splits["train"], params["train"], params["seed"])
            save_file(model.state_dict(), weights)
    model.eval()
    with timed("baseline"):
        fp32 = predict(model, images, size)
        prepared = prepare(copy.deepcopy(model), images[:1].clone())
        assert sqnr_db(fp32, predict(prepared, images, size)) > 60, "prepared, the network answers otherwise"
    rows = [figures("fp32", "FP32", task, fp32, fp32, evaluation)]
    if not only:
        with timed("fp16"):
            rows.append(half(model, task, evaluation, fp32, folder / "fp16", size))
        with timed("profile@fp16"):
            rows[-1] |= on_target(folder / "fp16", "FP16", task, evaluation, rows[-1]["answers"], params, pool)
        with timed("verify"):
            check_w16a16(prepared, task, evaluation, fp32, params)
        with timed("sensitivity"):
            write_csv(folder / "sensitivity.csv", sensitivity(prepared, task, splits["calibration"], params))
    for name, bits in params["ladder"].items():
        if only in (None, name):
            rows.append(rung(name, bits, prepared, task, splits, fp32, folder / name, params, pool))
    return rows


def train(model: Any, task: Any, split: Any, recipe: dict[str, Any], seed: int) -> None:
    """AdamW, a cosine schedule with warm-up, clipped gradients, images moved about."""
    images, targets, size, rate = split.inputs["image"], split.targets, recipe["batch_size"], recipe["learning_rate"]
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=recipe["weight_decay"])
    steps = recipe["epochs"] * math.ceil(len(targets) / size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.2)
    for epoch in range(recipe["epochs"]):
        model.train()
        torch.manual_seed(seed + epoch)
        generator = torch.Generator().manual_seed(seed + epoch)
        total = 0.0
        for batch in torch.randperm(len(targets), generator=generator).split(size):
            moved = task.augment({"image": images[batch]}, generator)["image"]
            loss = task.loss(model(moved), targets[batch])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += loss.item() * len(batch)
        print(f"epoch {epoch + 1}: loss {total / len(targets):.4f}")


def prepare(model: Any, sample: Any) -> Any:
    """Make the network fit for AIMET: its guidelines, and batch norms folded."""
    if not ModelValidator.validate_model(model, sample):
        model = prepare_model(model)
        assert ModelValidator.validate_model(model, sample), "AIMET's preparer does not help"
    fold_all_batch_norms(model, None, dummy_input=sample)
    return model.eval()


def half(model: Any, task: Any, split: Any, fp32: Any, folder: Path, size: int) -> dict[str, Any]:
    """Convert to FP16, evaluate, export."""

    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = copy.deepcopy(model).half().eval()

        def forward(self, image: Any) -> Any:
            return self.model(image.half()).float()

    fp16, images = Half(), split.inputs["image"]
    answers = predict(fp16, images, size)
    folder.mkdir(exist_ok=True)
    with torch.no_grad():
        torch.onnx.export(fp16, (images[:1].clone(),), str(folder / "model.onnx"), **GRAPH)
    return figures("fp16", "FP16", task, answers, fp32, split)


def check_w16a16(prepared: Any, task: Any, split: Any, fp32: Any, params: dict[str, Any]) -> None:
    """Stop where a sim that hardly quantizes disagrees with FP32."""
    images, size, limits = split.inputs["image"], params["evaluate"]["batch_size"], params["verify"]
    sim = quantize(prepared, images, 16, 16, size)
    found = figures("w16a16", "W16A16", task, predict(sim.model, images, size), fp32, split)
    assert found["drop"] <= limits["max_drop"] and found["sqnr_db"] >= limits["min_sqnr_db"], "W16A16 disagrees"


def quantize(prepared: Any, images: Any, weights: int, activations: int, size: int, ranges: str = "min-max") -> Any:
    """Build a sim and calibrate it; what feeds only a ReLU or ReLU6 gets that activation's range."""
    sim = QuantizationSimModel(
        prepared,
        images[:1].clone(),
        quant_scheme=RANGES[ranges],
        default_output_bw=activations,
        default_param_bw=weights,
        config_file=CONFIG,
    )
    sim.compute_encodings(lambda model: predict(model, images, size))
    modules = dict(sim.model.named_modules())
    for operation in sim.connected_graph.get_all_ops().values():
        readers = operation.output_ops or []
        if len(readers) == 1:
            layer, activation = (modules.get(one.dotted_name.partition(".")[2]) for one in (operation, readers[0]))
            if isinstance(activation, nn.ReLU | nn.ReLU6) and has_range(layer) and has_range(activation):
                clipped = activation.output_quantizers[0]
                layer.output_quantizers[0].set_range(clipped.get_min(), clipped.get_max())
    return sim


def has_range(module: Any) -> bool:
    """Whether a layer quantizes its output."""
    return isinstance(module, QuantizationMixin) and module.output_quantizers[0] is not None


def sensitivity(prepared: Any, task: Any, split: Any, params: dict[str, Any]) -> list[dict[str, Any]]:
    """Quantize each layer's weights or activations on its own, the rest in float."""
    asked, size = params["sensitivity"], params["evaluate"]["batch_size"]
    images, targets = split.inputs["image"][: asked["samples"]], split.targets[: asked["samples"]]
    reference = predict(prepared, images, size)
    rows = []
    for what, bits in [*(("weight", b) for b in asked["weights"]), *(("activation", b) for b in asked["activations"])]:
        sim = quantize(prepared, images, *((bits, 8) if what == "weight" else (8, bits)), size)
        every = [one for one in sim.model.modules() if isinstance(one, QuantizationMixin)]
        layers = {name: one for name, one in sim.model.named_modules() if one in every and quantizes(one, what)}
        for name, group in {"(all)": list(layers.values()), **{name: [one] for name, one in layers.items()}}.items():
            others = [one for one in every if all(one is not kept for kept in group)]
            remove = remove_activation_quantizers if what == "weight" else remove_param_quantizers
            with remove_all_quantizers(others) if others else nullcontext(), remove(group):
                answers = predict(sim.model, images, size)
            row = {"layer": name, "what": what, "bits": bits, "value": accuracy(task, answers, targets)}
            rows.append(row | {"sqnr_db": sqnr_db(reference, answers)})
    return rows


def quantizes(layer: Any, what: str) -> bool:
    """Whether a layer quantizes a weight, or an output or input."""
    if what == "weight":
        return dict(layer.param_quantizers).get("weight") is not None
    return any(one is not None for one in (*layer.output_quantizers, *layer.input_quantizers))


def rung(
    name: str,
    bits: dict[str, Any],
    prepared: Any,
    task: Any,
    splits: Any,
    fp32: Any,
    folder: Path,
    params: dict[str, Any],
    pool: Any,
) -> dict[str, Any]:
    """Quantize, evaluate, export, check and run one rung."""
    folder.mkdir(exist_ok=True)
    evaluation, calibration, own = splits["evaluation"], splits["calibration"], params["ptq"]
    images, size = evaluation.inputs["image"], params["evaluate"]["batch_size"]
    label = f"W{bits['weights']}A{bits['activations']}"
    with timed(f"ptq@{name}"):
        sim = cheapest(label, bits, prepared, task, calibration, own, size)
        row = figures(name, label, task, predict(sim.model, images, size), fp32, evaluation)
        assert row["drop"] <= params["goals"]["max_drop"] + 1e-9, f"{label}: the pipeline trains here"
        torch.save(sim.model.state_dict(), folder / "sim.pt")
        write_csv(folder / "layers.csv", layers_sqnr(prepared, sim, images[:LAYER_SAMPLES]))
    with timed(f"export@{name}"):
        export(sim, images, row["answers"], folder, params["export"])
    with timed(f"profile@{name}"):
        row |= on_target(folder, label, task, evaluation, row["answers"], params, pool)
    return row


def cheapest(
    label: str, bits: dict[str, Any], prepared: Any, task: Any, calibration: Any, own: dict[str, Any], size: int
) -> Any:
    """Give the sim of the first ranges whose drop on samples that they are not fitted to is small enough."""
    images, count = calibration.inputs["image"], own["samples"]
    rest, targets = images[count:], calibration.targets[count:]
    fp32 = accuracy(task, predict(prepared, rest, size), targets)
    for ranges in RANGES:
        sim = quantize(prepared, images[:count], bits["weights"], bits["activations"], own["batch_size"], ranges)
        if fp32 - accuracy(task, predict(sim.model, rest, size), targets) <= own["max_drop"] + 1e-9:
            return sim
    raise SystemExit(f"{label}: the pipeline goes on to other techniques")


def export(sim: Any, images: Any, answers: Any, folder: Path, limits: dict[str, Any]) -> None:
    """Write QDQ ONNX and AIMET's encodings; check the graph by ONNX Runtime with optimisations off."""
    path, sample = folder / "model.onnx", (images[:1].clone(),)
    with torch.no_grad():
        aimet_torch.onnx.export(sim, sample, str(path), export_int32_bias=False, prequantize_constants=True, **GRAPH)
    (folder / "aimet").mkdir(exist_ok=True)
    sim.onnx.export(sample, str(folder / "aimet/model.onnx"), encoding_version="1.0.0", **GRAPH)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    found = [session.run(None, {"image": images[i : i + 1].numpy()})[0] for i in range(limits["samples"])]
    db = sqnr_db(answers[: limits["samples"]], torch.from_numpy(np.concatenate(found)))
    assert db >= limits["min_sqnr_db"], f"{path}: {db:.1f} dB from the sim"


def layers_sqnr(prepared: Any, sim: Any, images: Any) -> list[dict[str, Any]]:
    """SQNR of every layer's output in the sim against the same in float."""
    names = [name for name, one in prepared.named_modules() if not any(one.children())]
    found = []
    for network in (prepared, sim.model):
        outputs: dict[str, Any] = {}

        def keep(name: str, outputs: dict[str, Any] = outputs) -> Callable:
            def hook(module: Any, inputs: Any, output: Any) -> None:
                outputs[name] = output.detach().clone()

            return hook

        handles = [network.get_submodule(name).register_forward_hook(keep(name)) for name in names]
        with torch.no_grad():
            network(images)
        for handle in handles:
            handle.remove()
        found.append(outputs)
    return [{"layer": name, "sqnr_db": sqnr_db(value, found[1][name])} for name, value in found[0].items()]


def on_target(
    folder: Path, label: str, task: Any, split: Any, simulated: Any, params: dict[str, Any], pool: Any
) -> dict[str, Any]:
    """Compile for the SoC, run the samples on the emulator, profile one inference."""
    context, count, fp16 = folder / "target", params["target"]["samples"], label == "FP16"
    shutil.rmtree(context, ignore_errors=True)
    context.mkdir()
    ops = pool.apply(compile_context, (folder / "model.onnx", context, fp16))
    images = split.inputs["image"][:count].numpy()
    jobs = [(str(context / "model_ctx.onnx"), fp16, images[i : i + 1]) for i in range(count)]
    answers = torch.from_numpy(np.concatenate(pool.starmap(answer, jobs, chunksize=10)))
    pool.apply(profile, (context / "model_ctx.onnx", fp16, images[:1], folder / "profile.csv"))
    (binary,) = context.glob("*.bin")
    model, reference = folder / "model.onnx", simulated[:count]
    published = label in ("FP16", "W8A8", "W8A16")
    return {
        "target_value": accuracy(task, answers, split.targets[:count]),
        "target_sqnr_db": sqnr_db(reference, answers),
        "target_agreement": agreement(reference, answers),
        "memory_bytes": binary.stat().st_size,
        "weights_bytes": sum(len(tensor.raw_data) for tensor in onnx.load(model).graph.initializer),
        "latency_ms": estimate(model, DEVICE, label.lower()).latency_ms if published else None,
        "ops_npu": ops,
        "target_answers": answers,
    }


@cache
def npu() -> Any:
    """Register the NPU's provider, once a process, and silence what it prints past Python."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    ort.register_execution_provider_library(PROVIDER, onnxruntime_qnn.get_library_path())
    return next(device for device in ort.get_ep_devices() if device.ep_name == PROVIDER)


def options_of(fp16: bool, **more: str) -> Any:
    """Give a session's options: this SoC, nothing left for the CPU."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    settings = {"backend_path": onnxruntime_qnn.get_qnn_htp_path(), "soc_model": str(SOC_MODEL), **more}
    if fp16:
        settings["enable_htp_fp16_precision"] = "1"
    options.add_provider_for_devices([npu()], settings)
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return options


def compile_context(model: Path, folder: Path, fp16: bool) -> int:
    """Write the context binary; give the number of ops on the NPU."""
    options = options_of(fp16)
    options.add_session_config_entry("ep.context_enable", "1")
    options.add_session_config_entry("ep.context_file_path", str(folder / "model_ctx.onnx"))
    options.add_session_config_entry("ep.context_embed_mode", "0")
    session = ort.InferenceSession(str(model), options)
    nodes = [node for part in session.get_provider_graph_assignment_info() for node in part.get_nodes()]
    return sum(node.op_type not in ("QuantizeLinear", "DequantizeLinear") for node in nodes)


@cache
def session_of(context: str, fp16: bool) -> Any:
    """Open a compiled model, once a process."""
    return ort.InferenceSession(context, options_of(fp16))


def answer(context: str, fp16: bool, image: np.ndarray) -> np.ndarray:
    """Run one sample on the emulator."""
    return session_of(context, fp16).run(None, {"image": image})[0]


def profile(context: Path, fp16: bool, image: np.ndarray, path: Path) -> None:
    """Run one inference with the backend's events of each op written to a file."""
    path.unlink(missing_ok=True)
    options = options_of(fp16, profiling_level="detailed", profiling_file_path=str(path))
    ort.InferenceSession(str(context), options).run(None, {"image": image})


def predict(model: Any, images: Any, size: int) -> Any:
    """Run images through a network, batch by batch."""
    model.eval()
    with torch.no_grad():
        return torch.cat([model(batch).as_subclass(torch.Tensor) for batch in images.split(size)])


def accuracy(task: Any, outputs: Any, targets: Any) -> float:
    """Give the mean of the metric's values, one for each sample."""
    return float(task.metric.compute(outputs, targets).mean())


def figures(name: str, label: str, task: Any, answers: Any, fp32: Any, split: Any) -> dict[str, Any]:
    """Score answers against FP32's."""
    value, own = accuracy(task, answers, split.targets), answers is fp32
    return {
        "rung": name,
        "precision": label,
        "value": value,
        "drop": round(accuracy(task, fp32, split.targets) - value, 9),
        "sqnr_db": None if own else sqnr_db(fp32, answers),
        "agreement": None if own else agreement(fp32, answers),
        "answers": answers,
    }


def sqnr_db(reference: Any, output: Any) -> float:
    """Signal to quantization noise, in dB; 200 for equal outputs."""
    noise = (reference.double() - output.double()).square().sum().item()
    return 10 * math.log10(reference.double().square().sum().item() / noise) if noise else 200.0


def agreement(reference: Any, output: Any) -> float:
    """Share of samples with the same top-1."""
    return (reference.argmax(1) == output.argmax(1)).double().mean().item()


def plain(row: dict[str, Any]) -> dict[str, Any]:
    """Leave out the answers."""
    return {key: value for key, value in row.items() if not key.endswith("answers")}


def write_results(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Write results.csv and results.json."""
    write_csv(folder / "results.csv", [plain(row) for row in rows])
    (folder / "results.json").write_text(json.dumps([plain(row) for row in rows], indent=2), "utf-8")


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows, which may lack columns, as CSV."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)


def log_runs(folder: Path, params: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Log one MLflow run a rung."""
    mlflow.set_tracking_uri(f"sqlite:///{(folder / 'mlflow.db').resolve()}")
    mlflow.set_experiment(params["track"]["experiment"])
    for row in map(plain, rows):
        with mlflow.start_run(run_name=row["rung"]):
            mlflow.log_params({"rung": row["rung"], "precision": row["precision"], "soc": params["target"]["soc"]})
            mlflow.log_metrics({key: value for key, value in row.items() if isinstance(value, int | float)})
            mlflow.log_artifact(str(folder / "results.csv"))


def deploy(folder: Path, params: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Choose the smallest rung that holds the goals, and put together what ships, with hashes and recorded answers."""
    limit, gap, count = params["goals"]["max_drop"], params["target"]["max_gap"], params["bundle"]["samples"]
    good = [
        row
        for row in rows[1:]
        if max(row["drop"], rows[0]["value"] - row["target_value"]) <= limit + 1e-9
        and abs(row["value"] - row["target_value"]) <= gap + 1e-9
    ]
    chosen = min(good, key=lambda row: row["memory_bytes"])
    source, made = folder / chosen["rung"], folder / "deploy"
    shutil.rmtree(made, ignore_errors=True)
    shutil.copytree(source, made, ignore=shutil.ignore_patterns("*.pt", "*.csv"))
    np.savez(made / "answers.npz", answers=chosen["target_answers"][:count].numpy())
    files = sorted(path for path in made.rglob("*") if path.is_file())
    hashes = {str(path.relative_to(made)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    (made / "manifest.json").write_text(json.dumps(plain(chosen) | {"files": hashes}, indent=2), "utf-8")
    print(f"chosen: {chosen['rung']} ({chosen['precision']})")


def compare_figures(path: Path, rows: list[dict[str, Any]]) -> None:
    """Hold the figures against the pipeline's, and say whether they are the same; exit code 1 if not."""
    with path.open(newline="", encoding="utf-8") as file:
        theirs = {row["rung"]: row for row in csv.DictReader(file)}
    apart = []
    for row in rows:
        for column, noise in NOISE.items():
            own, other = row.get(column), theirs[row["rung"]][column]
            same = other == "" if own is None else other != "" and abs(own - float(other)) <= noise
            if not same:
                apart.append(f"{row['rung']} {column}: {own} here, {other or None} there")
    print(f"{path}: " + ("the same figures within noise" if not apart else "OTHER FIGURES: " + "; ".join(apart)))
    if apart:
        raise SystemExit(1)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()

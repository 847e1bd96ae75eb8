"""What must hold of each addition that CONTRIBUTING.md shows; run in a process of its own, in a copy that has it."""

from dataclasses import replace
from pathlib import Path

from bitladder.running import determinism

determinism.pin(1)


def task() -> None:
    """The task passes what every task must, gives the same samples for the same seed, and can be learnt."""
    import torch

    from bitladder.network.evaluate import predict
    from bitladder.network.smoke_test import try_task
    from bitladder.network.training import Recipe, fit
    from bitladder.params import load_params
    from bitladder.tasks.splits import make_splits
    from bitladder.tasks.task import load_task

    params = load_params()
    assert all(Path(path).is_file() for path in params.task.files.values())
    made = load_task(params.task.factory, params.task.args)
    splits, again, other = (make_splits(made, seed) for seed in (0, 0, 1))
    for name, split in splits.items():
        images = split.inputs["image"]
        assert torch.equal(images, again[name].inputs["image"]) and torch.equal(split.targets, again[name].targets)
        assert not torch.equal(images, other[name].inputs["image"])
    torch.manual_seed(0)
    model = try_task(made, splits)
    fit(model, made, splits["train"], Recipe(20, 50, 3e-2, 0.0, 0), Path("build"))
    split = splits["evaluation"]
    assert made.metric(predict(model.eval(), split, 100, ""), split.targets) > 0.95


def technique() -> None:
    """It is listed, does what it says to the weights' ranges by real AIMET, and passes over what it cannot help."""
    import torch
    from torch import nn

    from bitladder.params import load_params
    from bitladder.precision import Precision
    from bitladder.quantize.ptq import quantize
    from bitladder.quantize.sim.isolated import quantized_layers
    from bitladder.quantize.techniques.technique import ORDER, Setting, apply
    from bitladder.tasks.task import Split

    params = load_params()
    assert ORDER[:3] == ("min-max", "sqnr", "narrow")
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4)).eval()
    split = Split({"x": torch.randn(32, 3, 6, 6)}, torch.zeros(32))
    setting = Setting(
        model=network,
        unfolded=lambda: network,
        sample=(split.inputs["x"][:1],),
        fit=split,
        precision=Precision(4, 8),
        config=params.soc.quantsim_config,
        params=params.ptq_of("tiny"),
        seed=0,
        work=Path("build"),
    )
    done, tries, _ = quantize(setting)
    assert done.name == "ptq:min-max+narrow" and [one.not_applicable for one in tries] == [None, None]
    plain = apply("min-max", setting, None)
    before, after = (
        [dict(layer.param_quantizers)["weight"] for layer in quantized_layers(one.sim.model, "weight").values()]
        for one in (plain, done)
    )
    assert len(before) == len(after) == 2
    for wide, close in zip(before, after, strict=True):
        assert torch.allclose(close.get_max(), 0.9 * wide.get_max())
        assert torch.allclose(close.get_scale(), 0.9 * wide.get_scale())
    assert apply("gptq", setting, done).name == "ptq:min-max+gptq"  # weights are rounded once
    _, (_, narrow), _ = quantize(replace(setting, precision=Precision(8, 8)))
    assert narrow.technique == "narrow" and narrow.not_applicable == "it is for weights of at most 4 bits"


def target() -> None:
    """`profile` measures a rung on it, and writes a whole record and the stage's output."""
    from models import samples, two_convs

    from bitladder.export.checks import run_unoptimised
    from bitladder.network.outputs import StoredOutputs
    from bitladder.network.scoring import save_score, score
    from bitladder.params import load_params
    from bitladder.paths import RungFiles
    from bitladder.records import TargetRecord, read_record
    from bitladder.stages import profile
    from bitladder.tasks.splits import save_split
    from bitladder.tasks.task import load_task

    params, split = load_params(), samples(20)
    model = Path("build/export/compact/model.onnx")
    for folder in (model.parent, Path("build/data"), Path("build/baseline"), Path("build/qat/compact")):
        folder.mkdir(parents=True)
    answers = run_unoptimised(two_convs(model), split)
    save_split(Path("build/data/evaluation.safetensors"), split)
    Path("build/task.json").write_text("{}")
    stored = StoredOutputs(RungFiles("compact").outputs)
    stored.append(answers)
    stored.flush()
    metric = load_task(params.task.factory, params.task.args).metric
    for path in (RungFiles("compact").reference, RungFiles("compact").scores):
        save_score(path, score(lambda x: answers, split, metric, 20, ""))
    profile.main(params, "compact")
    record = read_record(TargetRecord, Path("metrics/target/compact.json"))
    assert (record.backend, record.samples, record.gap, record.agreement) == ("cpu", 20, 0, 1)
    assert record.memory_bytes is record.latency_ms is None and record.latency_source == "none"
    assert "SM8650" in record.reason and record.ops_cpu > 0 and record.weights_bytes > 0
    assert Path("build/target/compact/SM8650").is_dir()


def rule() -> None:
    """Its network is refused as a plain quantizer writes it, and right once repaired."""
    from bitladder.htp.registry import RULES
    from bitladder.socs import find_soc
    from bitladder.targets.rule_figures import measure_rule
    from bitladder.targets.workers import worker_pool

    selu = RULES["selu"]
    Path("build").mkdir()
    with worker_pool(1, Path("build")) as pool:
        for precision, least in {"W8A16": 56, "W8A8": 33}.items():
            found = measure_rule(selu, precision, find_soc(selu.example.soc), pool)
            assert found is not None and found.before is None
            assert found.after is not None and found.after.sqnr_db > least

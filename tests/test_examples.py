"""Each example: the same files, params that are taken, and a task that loads where its package is installed."""

import importlib.util
import math
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from itertools import islice

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from bitladder.commands.init import init
from bitladder.errors import UserError
from bitladder.running.version import load_own_params
from support import ROOT

TRAINS = "language_model"  # its own network, rather than take one out of a package

EXAMPLES = sorted(path.name for path in (ROOT / "examples").iterdir() if path.is_dir())


def packages(name):
    text = (ROOT / "examples" / name / "README.md").read_text("utf-8")
    return " ".join(re.findall(r"(?m)^    pip install (?:--no-deps )?(.+)$", text)).split()


def test_there_are_examples_and_each_has_its_row_of_what_was_measured():
    rows = (ROOT / "docs/benchmarks.md").read_text("utf-8").splitlines()
    assert len(EXAMPLES) > 4
    assert [name for name in EXAMPLES if not any(row.startswith(f"| {name} |") for row in rows)] == []


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_has_the_files_of_all_and_its_readme_the_commands(name):
    folder = ROOT / "examples" / name
    names = {path.name for path in folder.iterdir() if path.is_file()}
    assert names == {"README.md", "params.yaml", "task.py", *(["generate.py"] if name == TRAINS else [])}
    text = (folder / "README.md").read_text("utf-8")
    assert f"bitladder init ../{name} --from examples/{name}\n" in text and "python task.py" in text
    assert (name == TRAINS) != bool(packages(name))


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_examples_params_are_taken_and_its_task_loads_where_its_package_is(name, tmp_path):
    folder = tmp_path / name
    init(folder, ROOT / "examples" / name)
    params = load_own_params(folder / "params.yaml")
    assert params.task.factory == "task.py:task" and params.train.epochs == 0
    for package in packages(name):
        try:
            distribution(package)
        except PackageNotFoundError:
            pytest.skip(f"{package} is not installed")
    steps = ["1"] if name == TRAINS else []
    for words in (["task.py", *steps], ["-m", "bitladder.commands.cli", "check"], ["-c", LOAD]):
        done = subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Task(")


LOAD = """
from pathlib import Path
from bitladder.running.version import load_own_params
from bitladder.tasks.task import load_task
task = load_own_params(Path("params.yaml")).task
print(load_task(task.factory, task.args))
"""


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"task\.py: No such file or directory; an example has a task\.py and a params\.yaml"),
        ({"task.py": ""}, r"params\.yaml: No such file"),
        ({"task.py": "", "params.yaml": "a: ["}, r"params\.yaml: not YAML"),
        ({"task.py": "", "params.yaml": "words"}, r"params\.yaml: holds no keys"),
    ],
)
def test_a_folder_that_is_no_example_is_refused_and_nothing_is_written(files, message, tmp_path):
    (tmp_path / "example").mkdir()
    for name, text in files.items():
        (tmp_path / "example" / name).write_text(text)
    with pytest.raises(UserError, match=message):
        init(tmp_path / "new", tmp_path / "example")
    assert not (tmp_path / "new").exists()


def test_further_scripts_of_an_example_come_with_it(tmp_path):
    written = init(tmp_path / "new", ROOT / "examples" / TRAINS)
    assert {"task.py", "generate.py"} <= set(written)
    assert (tmp_path / "new/generate.py").read_text() == (ROOT / "examples" / TRAINS / "generate.py").read_text()


def test_only_the_keys_of_the_example_differ_from_a_new_pipelines(tmp_path):
    (tmp_path / "example").mkdir()
    (tmp_path / "example/task.py").write_text("# mine\n")
    (tmp_path / "example/params.yaml").write_text(
        "task: {args: {samples: 7}, files: {net: a.onnx}}\ntrain: {epochs: 0}\n"
    )
    init(tmp_path / "from", tmp_path / "example")
    init(tmp_path / "new")
    own, new = (load_own_params(tmp_path / one / "params.yaml") for one in ("from", "new"))
    assert own.task.args == {"samples": 7} and own.task.files == {"code": "task.py", "net": "a.onnx"}
    assert own.train.epochs == 0 and (tmp_path / "from/task.py").read_text() == "# mine\n"
    same = {"task": new.task, "train": new.train}
    assert own.model_copy(update=same) == new


def script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / TRAINS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def decoder():
    """The language model's task with a network of a few hundred weights."""
    module = script("task")
    module.WIDTH = module.INNER = 16
    module.HEADS, module.GROUPS, module.HEAD = 4, 2, 8
    torch.manual_seed(0)
    module.network = module.Decoder().eval()
    return module


def test_perplexity_is_of_all_tokens_of_the_split_together(decoder):
    logits = torch.tensor([[[math.log(3), 0.0], [0.0, 0.0]], [[0.0, math.log(3)], [math.log(3), 0.0]]])
    targets = torch.tensor([[0, 1], [0, 0]])
    shares = [3 / 4, 1 / 2, 1 / 4, 3 / 4]  # of the tokens that came
    expected = math.prod(shares) ** (-1 / 4)
    assert decoder.perplexity({"logits": logits}, targets) == pytest.approx(expected)
    samples = [decoder.perplexity({"logits": logits[i : i + 1]}, targets[i : i + 1]) for i in (0, 1)]
    assert sum(samples) / 2 != pytest.approx(expected, rel=1e-3)


def test_chunks_with_their_cache_give_what_the_whole_window_gives(decoder):
    windows = torch.randint(0, 128, (2, decoder.WINDOW + 1), generator=torch.Generator().manual_seed(0))
    split = decoder.chunks(decoder.network, windows)
    with torch.no_grad():
        whole = decoder.network(*decoder.inputs(windows[:, :-1]).values())["logits"]
        parts = decoder.network(*split.inputs.values())["logits"]
    assert torch.equal(split.targets, torch.cat(windows[:, 1:].split(decoder.CHUNK, 1)))
    assert torch.allclose(parts, torch.cat(whole.split(decoder.CHUNK, 1)), atol=1e-5)


def test_text_by_the_cache_is_that_of_the_whole_text_at_once(decoder, monkeypatch):
    monkeypatch.setitem(sys.modules, "task", decoder)
    generate = script("generate")
    tokens = list(b"a prompt of more than one chunk, so that two go in")
    with torch.no_grad():
        step = lambda given: decoder.network(*given.values())  # noqa: E731
        found = list(islice(generate.generate(step, bytes(tokens).decode(), 0.0), 20))
        for one in found:
            logits = decoder.network(*decoder.inputs(torch.tensor([tokens])).values())["logits"]
            first, second = logits[0, -1].topk(2).values.tolist()
            tokens.append(int(logits[0, -1].argmax()))
            assert one.token == tokens[-1] and one.margin == pytest.approx(first - second, abs=1e-5)
    other = [*found[:7], found[7]._replace(token=found[7].token ^ 1), *found[8:]]
    assert generate.apart(found, other).startswith("the first 7 tokens are the same, then ")
    assert generate.apart(found, found) == "all 20 tokens are the same"


def test_a_cache_goes_in_with_the_encoding_with_which_it_came_out(decoder, tmp_path):
    from bitladder.network.model import sample_inputs
    from bitladder.precision import Precision
    from bitladder.quantize.prepare.prepare import prepare
    from bitladder.quantize.sim.sim import build_sim

    windows = torch.randint(0, 128, (2, decoder.WINDOW + 1), generator=torch.Generator().manual_seed(0))
    split, quantization = decoder.chunks(decoder.network, windows), decoder.task(8).quantization
    prepared, _ = prepare(decoder.network, sample_inputs(split), quantization=quantization)
    sim = build_sim(prepared, sample_inputs(split), Precision(8, 16), "htp_v75")
    sim.calibrate(split, 8)
    outputs = ["logits", *(output for _, output in quantization.tied)]
    sim.export_qdq(sample_inputs(split), (list(split.inputs), outputs), tmp_path / "model.onnx")
    graph = onnx.load(tmp_path / "model.onnx").graph
    constants = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    constants |= {node.output[0]: numpy_helper.to_array(node.attribute[0].t) for node in graph.node if not node.input}
    makers = {name: node for node in graph.node for name in node.output}
    for past, present in quantization.tied:
        reader, maker = next(node for node in graph.node if past in node.input), makers[present]
        while maker.op_type != "DequantizeLinear":
            maker = makers[maker.input[0]]
        assert reader.op_type == "QuantizeLinear"
        for index in (1, 2):
            assert np.array_equal(constants[reader.input[index]], constants[maker.input[index]]), past

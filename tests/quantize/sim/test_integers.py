"""Everyday operands, norms and activations hold integers in every rung, and so a SoC without FP16 takes them."""

import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn
from torch.nn import functional

from bitladder.export.checks import run_unoptimised
from bitladder.export.float_tensors import find_float
from bitladder.network.evaluate import predict, sqnr_db
from bitladder.network.model import output_names
from bitladder.precision import Precision
from bitladder.quantize.prepare.prepare import check_equal, prepare
from bitladder.quantize.sim.sim import build_sim
from bitladder.socs import find_soc
from bitladder.targets.context import compile_model, run
from bitladder.tasks.task import Split

WITHOUT_FP16 = find_soc("QCS6490")

RUNGS = [Precision(8, 16), Precision(8, 8), Precision(4, 8)]


class Operands(nn.Module):
    """Parameters, numbers and calls on tokens."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Linear(8, 8), nn.Linear(8, 4)
        self.position, self.scale = nn.Parameter(torch.randn(6, 8)), nn.Parameter(torch.rand(8))
        self.left, self.heads = nn.Parameter(torch.randn(6, 6)), nn.Parameter(torch.randn(1, 8, 8))
        self.right = nn.Parameter(torch.randn(8, 8))
        self.norm, self.rms, self.plain = nn.LayerNorm(8), nn.RMSNorm(8), nn.LayerNorm(8, elementwise_affine=False)

    def forward(self, x):
        x = self.norm(self.stem(x) + self.position)
        x = self.left @ x + x @ self.right
        x = 1 - (x @ self.heads) * self.scale / 3 + 0.5
        x = torch.where(x > 0.1, x, x.chunk(2, -1)[0].repeat(1, 1, 2)) ** 2
        return self.head(functional.normalize(self.plain(self.rms(x)), dim=-1))


class Activations(nn.Module):
    """On images, as modules and as calls."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)
        self.groups, self.instance = nn.GroupNorm(2, 8), nn.InstanceNorm2d(8, affine=True)
        self.activations = nn.Sequential(nn.SiLU(), nn.Mish(), nn.Softsign(), nn.Tanhshrink(), nn.SELU(), nn.CELU(2.0))
        self.gate, self.local = nn.GLU(1), nn.LocalResponseNorm(3, alpha=0.5)

    def forward(self, x):
        x = functional.local_response_norm(self.local(self.activations(self.groups(self.stem(x)))), 4)
        x = functional.group_norm(functional.mish(functional.silu(x)), 4)
        x = functional.glu(torch.cat([x, self.gate(torch.cat([x, x], 1))], 1), 1)
        x = functional.hardshrink(functional.softshrink(self.instance(x), 0.1), 0.1)
        return self.head(functional.threshold(functional.logsigmoid(x), -1.5, -2.0))


class Norms(nn.Module):
    """Two norms with equal weights, which the exporter stores once."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 4))

    def forward(self, x):
        return self.layers(x)


class Ids(nn.Module):
    """An embedding and a position."""

    def __init__(self):
        super().__init__()
        self.table, self.position, self.head = nn.Embedding(20, 8), nn.Parameter(torch.randn(6, 8)), nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.table(x) + self.position)


class Twice(nn.Module):
    """One tensor under three names, which a layer reads too."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)

    def forward(self, x):
        inner = torch.relu(self.stem(x))
        return self.head(inner), {"inner": inner, "same": [inner, inner]}


def inputs(kind: type) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    if kind is Ids:
        return torch.randint(0, 20, (8, 6), generator=generator)
    return torch.randn(*((8, 6, 8) if kind in (Operands, Norms) else (8, 3, 8, 8)), generator=generator)


def exported(kind: type, bits: Precision, folder):
    torch.manual_seed(0)
    model, split = kind().eval(), Split({"input": inputs(kind)}, torch.zeros(8))
    sample = (split.inputs["input"][:1],)
    expected = predict(model, split, 4, "fp32")
    prepared, _ = prepare(model, sample)
    check_equal(sqnr_db(expected, predict(prepared, split, 4, "prepared")))
    sim = build_sim(prepared, sample, bits, WITHOUT_FP16.quantsim_config)
    sim.calibrate(split, 4)
    sim.export_qdq(sample, (["input"], list(output_names(prepared))), folder / "model.onnx")
    return folder / "model.onnx", sim, split


@pytest.mark.parametrize("bits", RUNGS, ids=str)
@pytest.mark.parametrize("kind", [Operands, Activations, Norms, Ids])
def test_a_soc_without_fp16_takes_it_since_nothing_is_float(kind, bits, tmp_path):
    path, sim, split = exported(kind, bits, tmp_path)
    assert find_float(path).tensors == ()
    simulated = predict(sim.model, split, 4, "sim")
    assert sqnr_db(simulated, run_unoptimised(path, split)) > 30
    (tmp_path / "work").mkdir()
    compiled = compile_model(path, tmp_path / "target", WITHOUT_FP16, False, 120, tmp_path / "work")
    assert compiled.ops_cpu == 0


@pytest.mark.parametrize("bits", RUNGS[:2], ids=str)
def test_a_tensor_that_is_given_under_several_names_is_quantized_once(bits, tmp_path):
    path, sim, split = exported(Twice, bits, tmp_path)
    graph = onnx.load(path).graph
    activations = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    assert len({node.input[0] for node in activations}) == len(activations)
    (tmp_path / "work").mkdir()
    compiled = compile_model(path, tmp_path / "target", WITHOUT_FP16, False, 120, tmp_path / "work")
    assert compiled.ops_cpu == 0
    found = run_unoptimised(path, split)
    assert [*found] == ["output_0", "output_1_inner", "output_1_same_0", "output_1_same_1"]
    assert torch.equal(found["output_1_inner"], found["output_1_same_1"])
    assert sqnr_db(predict(sim.model, split, 4, "sim"), found) > 30


def test_an_embedding_has_the_weights_bits_and_what_is_looked_up_the_activations(tmp_path):
    path, sim, _ = exported(Ids, Precision(8, 16), tmp_path)
    table = sim.model.get_submodule("table")
    assert (table.param_quantizers["weight"].bitwidth, table.output_quantizers[0].bitwidth) == (8, 16)
    graph = onnx.load(path).graph
    stored = next(one for one in graph.initializer if list(one.dims) == [20, 8])
    assert stored.data_type == onnx.TensorProto.UINT8


def test_parameters_in_a_product_have_the_weights_bits_and_others_the_activations(tmp_path):
    _, sim, _ = exported(Operands, Precision(8, 16), tmp_path)
    operands = {
        name: quantizer.bitwidth
        for name, quantizer in sim.aimet.named_quantizers()
        if "input_quantizers" in name and not name.startswith("stem")
    }
    in_products = {name for name in operands if "matmul" in name}
    assert len(in_products) == 1, "the others are layers"
    assert {name for name, bits in operands.items() if bits == 8} == in_products
    assert {bits for name, bits in operands.items() if name not in in_products} == {16}


def test_numbers_and_norms_biases_keep_their_values(tmp_path):
    path, sim, _ = exported(Operands, Precision(8, 8), tmp_path)
    graph = onnx.load(path).graph
    stored = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    makers = {node.output[0]: node for node in graph.node}

    def value(name):
        integers, scale, zero = (stored[one] for one in makers[name].input)
        return (integers.astype("float64") - zero) * scale

    norm = next(node for node in graph.node if node.op_type == "LayerNormalization")
    bias = sim.model.get_submodule("norm").bias.detach().numpy()
    assert stored[makers[norm.input[2]].input[0]].dtype == "int32"
    assert abs(value(norm.input[2]) - bias).max() < 1e-3
    halves = [
        value(name) for node in graph.node if node.op_type == "Add" for name in node.input if name.endswith("_dq")
    ]
    assert any(abs(one - 0.5).max() < 1e-6 for one in halves)


def test_the_rung_is_right_on_that_soc(tmp_path):
    path, sim, split = exported(Operands, Precision(8, 8), tmp_path)
    few = split.first(2)
    (tmp_path / "work").mkdir()
    compiled = compile_model(path, tmp_path / "target", WITHOUT_FP16, False, 120, tmp_path / "work")
    from bitladder.params import load_params

    settings = load_params().target
    found = run(compiled, WITHOUT_FP16, False, few, settings, tmp_path / "work")
    assert sqnr_db(predict(sim.model, few, 1, "sim"), found) > 20

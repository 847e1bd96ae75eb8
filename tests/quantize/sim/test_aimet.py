"""AIMET's import without what it brings along, which stays there for whoever asks."""

import pytest


def test_what_is_never_called_is_not_loaded_and_can_be_loaded_later(python):
    code = (
        "import sys, torch, bitladder.quantize.sim.torch_sim\n"
        "heavy = {'torch._dynamo', 'transformers', 'bokeh', *(() if torch.cuda.is_available() else ('triton',))}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
        "import torch._dynamo.utils, bokeh.server.server\n"
        "print(torch._dynamo.utils.is_compile_supported.__module__, bokeh.server.server.Server.__name__)\n"
        "print(torch.compile.__module__, torch.compiler.disable.__module__)\n"
    )
    done = python(code)
    assert done.stdout.split("\n")[:3] == ["[]", "torch._dynamo.utils Server", "torch torch.compiler"], done.stderr


def test_a_sim_is_built_and_exported_without_loading_what_compiles_networks_or_plots(python, tmp_path):
    code = (
        "import sys, torch\n"
        "from pathlib import Path\n"
        "from torch import nn\n"
        "from bitladder.precision import Precision\n"
        "from bitladder.quantize.sim.sim import build_sim\n"
        "x = torch.zeros(1, 3, 8, 8)\n"
        "sim = build_sim(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval(), (x,), Precision(8, 8), 'htp_v75')\n"
        "sim.aimet.compute_encodings(lambda model: model(x + 1))\n"
        "sim.export_qdq((x,), (['image'], ['y']), Path('model.onnx'))\n"
        "sim.export_encodings((x,), (['image'], ['y']), Path('aimet'))\n"
        "print(sorted({'torch._dynamo', 'bokeh'} & set(sys.modules)))\n"
        "from aimet_torch.v2.visualization_tools import visualize_stats\n"
        "visualize_stats(sim.aimet, (x,), save_path='plots.html')\n"
        "print('bokeh' in sys.modules)\n"
    )
    done = python(code, cwd=tmp_path)
    assert done.stdout.split("\n")[-3:-1] == ["[]", "True"], done.stderr
    assert (tmp_path / "plots.html").exists()
    assert (tmp_path / "model.onnx").exists() and (tmp_path / "aimet/model.onnx").exists()


def test_modules_of_transformers_have_their_quantized_definitions(python):
    pytest.importorskip("transformers")
    code = (
        "import torch\n"
        "from torch import nn\n"
        "from bitladder.precision import Precision\n"
        "from bitladder.quantize.sim.sim import build_sim\n"
        "from transformers.models.llama.modeling_llama import LlamaRMSNorm\n"
        "net = nn.Sequential(nn.Linear(8, 8), LlamaRMSNorm(8)).eval()\n"
        "sim = build_sim(net, (torch.zeros(1, 8),), Precision(8, 16), 'htp_v75')\n"
        "print(type(sim.model[1]).__name__)\n"
    )
    done = python(code)
    assert done.stdout.split()[-1:] == ["QuantizedLlamaRMSNorm"], done.stderr

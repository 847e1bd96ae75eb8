"""AIMET's import without what it brings along, which stays there for whoever asks."""

import pytest


def test_what_is_never_called_is_not_loaded_and_can_be_loaded_later(python):
    code = (
        "import sys, torch, bitladder.quantize.simulation\n"
        "heavy = {'torch._dynamo', 'transformers', 'bokeh'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
        "import torch._dynamo.utils, bokeh.server.server\n"
        "print(torch._dynamo.utils.is_compile_supported.__module__, bokeh.server.server.Server.__name__)\n"
        "print(torch.compile.__module__, torch.compiler.disable.__module__)\n"
    )
    done = python(code)
    assert done.stdout.split("\n")[:3] == ["[]", "torch._dynamo.utils Server", "torch torch.compiler"], done.stderr


def test_modules_of_transformers_have_their_quantized_definitions(python):
    pytest.importorskip("transformers")
    code = (
        "import torch\n"
        "from torch import nn\n"
        "from bitladder.precision import Precision\n"
        "from bitladder.quantize.simulation import build_sim\n"
        "from transformers.models.llama.modeling_llama import LlamaRMSNorm\n"
        "net = nn.Sequential(nn.Linear(8, 8), LlamaRMSNorm(8)).eval()\n"
        "sim = build_sim(net, (torch.zeros(1, 8),), Precision(8, 16), 'htp_v75')\n"
        "print(type(sim.model[1]).__name__)\n"
    )
    done = python(code)
    assert done.stdout.split()[-1:] == ["QuantizedLlamaRMSNorm"], done.stderr

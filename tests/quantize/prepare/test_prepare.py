import pytest
import torch
from torch import nn

import bitladder.quantize.prepare.prepare as prepare_module
from bitladder.errors import UserError
from bitladder.network.evaluate import predict, sqnr_db
from bitladder.network.model import build_model
from bitladder.quantize.prepare.prepare import Preparation, check_equal, load_prepared, prepare, save_prepared
from bitladder.running.files import save_tensors
from bitladder.tasks.task import Task


class Residual(nn.Module):
    """Breaks the guidelines: `+`, a functional call, a module used twice."""

    def __init__(self):
        super().__init__()
        self.conv, self.act = nn.Conv2d(1, 1, 3, padding=1), nn.ReLU()

    def forward(self, x):
        return nn.functional.relu(x + self.act(self.conv(self.act(x))))


class Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


def test_what_breaks_the_guidelines_is_rewritten_with_equal_answers():
    model, x = Residual().eval(), torch.randn(4, 1, 8, 8)
    expected = model(x)
    prepared, rewritten = prepare(model, (x,))
    assert rewritten
    assert torch.allclose(prepared(x), expected)
    activations = [module for module in prepared.modules() if isinstance(module, nn.ReLU)]
    assert len(activations) == 3


def test_what_keeps_the_guidelines_is_not_rewritten():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU()).eval()
    prepared, rewritten = prepare(model, (torch.randn(1, 1, 8, 8),))
    assert not rewritten
    assert not [module for module in prepared.modules() if isinstance(module, nn.BatchNorm2d)]


def test_what_cannot_be_traced_is_refused_in_one_line():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.branch = Branching()

        def forward(self, x):
            return self.branch(x) + 1

    with pytest.raises(UserError, match=r"AIMET cannot prepare the model .*TraceError") as error:
        prepare(Model().eval(), (torch.randn(1, 3),))
    assert "\n" not in str(error.value)


def test_a_prepared_network_is_rebuilt_from_its_file(trained, tmp_path):
    save_prepared(tmp_path / "model.safetensors", trained.prepared, Preparation(False))
    rebuilt = load_prepared(trained.task, trained.sample, tmp_path / "model.safetensors")
    split = trained.splits["evaluation"]
    assert torch.equal(predict(rebuilt, split, 100, "")["output"], predict(trained.prepared, split, 100, "")["output"])


def test_a_rewritten_network_is_rewritten_again_and_its_guidelines_are_asked_once(tmp_path, monkeypatch):
    x, path = torch.randn(1, 1, 8, 8), tmp_path / "model.safetensors"
    asked = []
    ask = prepare_module._broken_guidelines
    monkeypatch.setattr(prepare_module, "_broken_guidelines", lambda *words: asked.append(words) or ask(*words))
    prepared, preparation = prepare(Residual().eval(), (x,))
    assert preparation and len(asked) == 2
    save_prepared(path, prepared, preparation)
    task = Task(Residual, lambda seed: {}, None, None)
    rebuilt = load_prepared(task, (x,), path)
    assert [name for name, _ in rebuilt.named_modules()] == [name for name, _ in prepared.named_modules()]
    assert torch.equal(rebuilt(x), prepared(x)) and len(asked) == 2
    save_tensors(path, prepared.state_dict())  # without a note of it
    assert torch.equal(load_prepared(task, (x,), path)(x), prepared(x)) and len(asked) == 4


def test_a_network_that_answers_otherwise_is_refused():
    signal = torch.rand(10)
    check_equal(sqnr_db({"output": signal}, {"output": signal * (1 + 1e-5)}))
    with pytest.raises(UserError, match=r"answers otherwise than before \(40\.0 dB\)"):
        check_equal(sqnr_db({"output": signal}, {"output": signal * 1.01}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("9.bias"), "has no weights for '9.bias'"),
        (lambda state: state.update(extra=torch.zeros(1)), "has weights for 'extra', which the model does not have"),
        (
            lambda state: state.update({"9.bias": torch.zeros(3)}),
            r"'9.bias' has shape \(3,\), and the model wants \(10,\)",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named(trained, tmp_path, change, message):
    state = dict(trained.model.state_dict())
    change(state)
    save_tensors(tmp_path / "weights.safetensors", state)
    with pytest.raises(UserError, match=message):
        build_model(trained.task, tmp_path / "weights.safetensors")

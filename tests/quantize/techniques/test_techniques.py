"""PTQ techniques, mixed precision and sensitivity on a small network trained on real digits, through real AIMET."""

import shutil
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from aimet_torch.nn.modules.custom import Add
from torch import nn
from torch.nn import functional

from bitladder.errors import UserError
from bitladder.network.evaluate import predict, sqnr_db
from bitladder.params import AdaroundParams, Bits, MixedParams, SensitivityParams
from bitladder.precision import Precision
from bitladder.quantize.mixed import raise_layers
from bitladder.quantize.prepare.prepare import prepare
from bitladder.quantize.ptq import quantize
from bitladder.quantize.sensitivity import ALL, measure, summarise
from bitladder.quantize.sim.batches import Batches
from bitladder.quantize.sim.relu6 import needs_relu
from bitladder.quantize.sim.sim import build_sim
from bitladder.quantize.sim.torch_sim import TorchSim
from bitladder.quantize.techniques import gptq
from bitladder.quantize.techniques.bias_correction import correct_biases
from bitladder.quantize.techniques.gptq_scales import Blocks, Channels
from bitladder.quantize.techniques.technique import ORDER, RANGES, NotApplicable, apply
from bitladder.quantize.trial import trier
from bitladder.tasks.task import Metric, Split
from support import CONFIG, rung_setting

TINY = Precision(4, 8)

FEW_ITERATIONS = AdaroundParams(iterations=5, samples=100)
"""For tests of which the gain of AdaRound is no part."""


@pytest.fixture
def try_out(trained, tmp_path):
    return trier(trained.task.metric, trained.prepared, trained.splits["calibration"].after(100), 100, tmp_path)


def left_db(trained, quantized):
    split = trained.splits["evaluation"]
    return sqnr_db(predict(trained.prepared, split, 100, ""), predict(quantized.sim.model, split, 100, ""))


@pytest.fixture(scope="module")
def plain(trained):
    return quantize(rung_setting(trained, TINY, ["min-max"]))[0]


def test_auto_stops_at_the_cheapest_that_is_enough(trained, try_out):
    done, tries, seconds = quantize(rung_setting(trained, TINY, "auto", max_drop=1.0), try_out)
    assert [one.technique for one in tries] == ["min-max"] == list(seconds)
    assert done.name == "ptq:bn-fold+min-max"


def test_batch_norms_are_named_only_where_some_were_folded(trained):
    """Without one there is nothing to fold; one that no layer stands before stays."""
    for norm in (nn.Identity(), nn.BatchNorm2d(8)):
        net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), norm, nn.ReLU(), nn.Flatten(), nn.Linear(8 * 26 * 26, 10))
        model, _ = prepare(net.eval(), trained.sample)
        setting = replace(rung_setting(trained, Precision(8, 8), ["min-max", "cle"]), model=model)
        assert quantize(setting)[0].name == "ptq:min-max"


def test_auto_tries_all_where_nothing_is_enough_and_keeps_only_what_helps(trained, try_out, tmp_path):
    setting = rung_setting(trained, Precision(3, 8), "auto", tmp_path, max_drop=0.0)
    done, tries, _ = quantize(replace(setting, params=setting.params.model_copy(update={"max_drop": None})), try_out)
    assert [one.technique for one in tries] == list(ORDER)
    kept = [one for one in tries if one.kept]
    ranks = [(-one.drop, one.sqnr_db) for one in kept]
    assert ranks == sorted(ranks)  # each that was kept is better than the one before
    found = try_out(done.sim.model).found
    assert (found.value, found.sqnr_db) == (kept[-1].value, pytest.approx(kept[-1].sqnr_db))
    assert len(kept) > 1 and found.drop < tries[0].drop


def test_what_can_do_nothing_is_said_to_do_nothing(trained):
    done, tries, _ = quantize(rung_setting(trained, Precision(8, 8), ["seq-mse"]))
    assert [(one.technique, one.kept, one.value) for one in tries] == [("seq-mse", False, None)]
    assert "4 bits" in tries[0].not_applicable
    assert done.name == "ptq:bn-fold+min-max"


@pytest.mark.parametrize("name", ORDER)
@pytest.mark.parametrize("batch_size", [48, 500])
def test_samples_need_not_fill_their_batches(trained, plain, tmp_path, name, batch_size):
    setting = rung_setting(trained, TINY, [name], tmp_path, batch_size=batch_size, adaround=FEW_ITERATIONS)
    assert left_db(trained, apply(name, setting, None if name in RANGES else plain)) > 10


def test_cle_takes_relu6_out_and_the_next_stage_builds_it_so(trained, tmp_path):
    setting = rung_setting(trained, TINY, ["min-max"])
    try:
        done = apply("cle", setting, None)
    except NotApplicable:
        pytest.fail("the network has layers with ReLU6 between them")
    assert not any(isinstance(module, nn.ReLU6) for module in done.model.modules())
    assert any(isinstance(module, nn.ReLU6) for module in trained.prepared.modules())
    done.sim.save(tmp_path / "sim.safetensors")
    assert needs_relu(tmp_path / "sim.safetensors")
    TorchSim.swap_relu6(done.model)
    other = build_sim(done.model, trained.sample, TINY, CONFIG)
    other.load(tmp_path / "sim.safetensors")
    assert other.encodings() == done.sim.encodings()


def test_bias_correction_gives_every_channel_the_mean_it_has_in_float(trained, plain, tmp_path):
    setting = rung_setting(trained, TINY, ["min-max"])
    sim = plain.copy_sim()
    assert correct_biases(sim, Batches(setting.fit, 32), tmp_path) > 5
    last = [name for name, module in plain.model.named_modules() if isinstance(module, nn.Linear)][-1]
    means = {}
    for key, network in (("float", plain.model), ("sim", sim.model), ("before", plain.sim.model)):
        outputs = predict(network, setting.fit, 100, "")["output"]
        means[key] = outputs.mean(0)
    assert last
    step = sim.model.get_submodule(last).output_quantizers[0].get_scale().item()
    error, before = ((means[key] - means["float"]).abs().max().item() for key in ("sim", "before"))
    assert error < step and error < before


def test_adaround_beats_rounding_to_the_nearest_and_a_killed_run_ends_with_the_same_bits(trained, plain, tmp_path):
    setting = rung_setting(trained, TINY, ["adaround"], tmp_path / "whole")
    whole = apply("adaround", setting, plain)
    assert left_db(trained, whole) > left_db(trained, plain) + 1
    layers = sorted((tmp_path / "whole/adaround").iterdir(), key=lambda path: path.stat().st_mtime)
    (tmp_path / "killed/adaround").mkdir(parents=True)
    for path in layers[: len(layers) // 2]:
        shutil.copy(path, tmp_path / "killed/adaround")
    resumed = apply("adaround", replace(setting, work=tmp_path / "killed"), plain)
    assert resumed.sim.encodings() == whole.sim.encodings()
    state, other = whole.sim.model.state_dict(), resumed.sim.model.state_dict()
    assert all(torch.equal(state[name], other[name]) for name in state if isinstance(state[name], torch.Tensor))


def test_gptq_beats_rounding_to_the_nearest_and_gives_the_same_bits_twice(trained, plain):
    setting = rung_setting(trained, TINY, ["gptq"])
    done, again = (apply("gptq", setting, plain) for _ in range(2))
    assert done.name == "ptq:bn-fold+min-max+gptq"
    assert left_db(trained, done) > left_db(trained, plain) + 3
    assert again.sim.encodings() == done.sim.encodings()
    state, other = done.sim.model.state_dict(), again.sim.model.state_dict()
    assert all(torch.equal(state[name], other[name]) for name in state if isinstance(state[name], torch.Tensor))
    for module in done.sim.model.modules():  # what it gives stands on the grid that is exported
        if "weight" in getattr(module, "param_quantizers", {}):
            quantized = module.param_quantizers["weight"](module.weight)
            assert torch.allclose(quantized, module.weight, atol=1e-6)


@pytest.mark.parametrize("scales", [Channels(True), Channels(False), Blocks(3)], ids=str)
def test_going_over_rounded_weights_again_brings_them_nearer_to_the_outputs(scales):
    torch.manual_seed(0)
    inputs = torch.randn(2, 9, 500, dtype=torch.double) + torch.randn(2, 1, 500, dtype=torch.double)
    target, moments = torch.randn(2, 5, 9, dtype=torch.double), inputs @ inputs.transpose(1, 2) / 500
    scale = target.abs().amax(2, keepdim=True) / 7
    if scales == Channels(False):
        scale = scale.amax().expand_as(scale)
    elif scales == Blocks(3):
        scale = (target.abs().unflatten(2, (3, 3)).amax(3) / 7).repeat_interleave(3, 2)

    def error(weights):
        return (((weights - target) @ moments) * (weights - target)).sum().item()

    once = gptq._rounded(target, moments, scale, -8, 7)
    again, found = gptq._refined(once, target, moments, scale, -8, 7, scales)
    assert error(again) < 0.97 * error(once)
    steps = again / found
    assert torch.allclose(steps, steps.round(), atol=1e-9) and steps.min() >= -8.5 and steps.max() <= 7.5
    assert len(found.unique()) == {Channels(True): 10, Channels(False): 1, Blocks(3): 30}[scales]


def test_gptq_leaves_the_means_of_inputs_to_the_bias(trained):
    """Which makes up for them for nothing: weights that do are lost for all else."""
    torch.manual_seed(0)
    network, inputs = nn.Sequential(nn.Linear(24, 16)).eval(), torch.randn(400, 24)
    setting = replace(rung_setting(trained, Precision(4, 16), ["gptq"]), model=network, sample=(inputs[:1],))
    weights = []
    for shift in (torch.zeros(24), 10 * torch.randn(24)):
        fitted = replace(setting, fit=Split({"x": inputs + shift}, torch.zeros(400)))
        done = apply("gptq", fitted, None)
        weights.append(done.sim.model.get_submodule("0").weight)
    assert (weights[0] - weights[1]).abs().gt(1e-3).float().mean() < 0.02


class Residual(nn.Module):
    """Adds what two layers make of its input to it."""

    def __init__(self, wide, narrow):
        super().__init__()
        self.wide, self.relu, self.narrow, self.add = wide, nn.ReLU(), narrow, Add()

    def forward(self, x):
        return self.add(x, self.narrow(self.relu(self.wide(x))))


@pytest.mark.parametrize("kind", ["linear", "convolution by group, without a bias"])
def test_gptq_makes_up_for_the_error_of_what_an_output_is_added_to(trained, monkeypatch, kind):
    torch.manual_seed(0)
    if kind == "linear":
        inputs = torch.randn(2000, 16) + 1
        blocks = [Residual(nn.Linear(16, 64), nn.Linear(64, 16)) for _ in range(4)]
        network = nn.Sequential(nn.Linear(16, 16), *blocks).eval()
    else:
        inputs = torch.randn(200, 8, 6, 6) + 1
        narrow = [nn.Conv2d(32, 8, 1, groups=2, bias=False) for _ in range(4)]
        blocks = [Residual(nn.Conv2d(8, 32, 3, padding=1), layer) for layer in narrow]
        network = nn.Sequential(nn.Conv2d(8, 8, 1), *blocks).eval()
    split = Split({"x": inputs}, torch.zeros(len(inputs)))
    half = len(inputs) // 2
    setting = rung_setting(trained, TINY, ["gptq"])
    setting = replace(setting, model=network, sample=(inputs[:1],), fit=split.first(half))

    def left():
        sim = apply("gptq", setting, None).sim
        expected, given = (predict(model, split.after(half), half, "") for model in (network, sim.model))
        apart = next(iter(given.values())).mean(0) - next(iter(expected.values())).mean(0)
        return sqnr_db(expected, given), apart.abs().max()

    made_up, apart = left()
    assert kind != "linear" or apart < 0.05  # the bias is for all that is added up
    monkeypatch.setattr(gptq, "added_to", lambda *given: {})
    assert made_up > left()[0] + 0.3


def test_gptq_takes_summands_that_have_no_samples(trained):
    class Placed(nn.Module):
        """Adds the same to each sample."""

        def __init__(self):
            super().__init__()
            self.first, self.place, self.add = nn.Linear(8, 8), nn.Linear(4, 8), Add()
            self.register_buffer("steps", torch.randn(1, 4))

        def forward(self, x):
            return self.add(self.first(x), self.place(self.steps))

    torch.manual_seed(0)
    network, split = Placed().eval(), Split({"x": torch.randn(64, 8)}, torch.zeros(64))
    sample = (split.inputs["x"][:1],)
    setting = replace(rung_setting(trained, TINY, ["gptq"]), model=network, sample=sample, fit=split)
    given = predict(apply("gptq", setting, None).sim.model, split, 64, "")
    assert sqnr_db(predict(network, split, 64, ""), given) > 15


def test_gptq_takes_every_kind_of_layer_that_it_says_it_does(trained):
    """Convolutions by group, stride, dilation and padding, in one and two dimensions, and a layer without a bias."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv1d(4, 8, 5, stride=2, padding=2, dilation=2, groups=2, padding_mode="reflect"), nn.ReLU(),
        nn.Unflatten(1, (2, 4)), nn.Conv2d(2, 6, (1, 3), padding="same", bias=False), nn.ReLU(), nn.Flatten(2),
        nn.Linear(40, 5),
    ).eval()  # fmt: skip
    split = Split({"x": torch.randn(64, 4, 24)}, torch.zeros(64))
    sample = (split.inputs["x"][:1],)
    setting = replace(rung_setting(trained, TINY, ["min-max"]), model=network, sample=sample, fit=split)
    plain, done = quantize(setting)[0], apply("gptq", setting, None)
    reference = predict(network, split, 64, "")
    nearest, made_up = (sqnr_db(reference, predict(one.sim.model, split, 64, "")) for one in (plain, done))
    assert made_up > nearest + 1


def test_what_rounds_weights_starts_from_float_ones(trained, plain, tmp_path):
    """AdaRound put on top of GPTQ is AdaRound: it has nothing left to round otherwise, and the name says so."""
    setting = rung_setting(trained, TINY, ["adaround"], tmp_path, adaround=FEW_ITERATIONS)
    on_top = apply("adaround", setting, apply("gptq", setting, plain))
    alone = apply("adaround", replace(setting, work=tmp_path / "alone"), plain)
    assert on_top.name == alone.name == "ptq:bn-fold+min-max+adaround"
    assert on_top.sim.encodings() == alone.sim.encodings()


def test_biases_are_corrected_anew_where_the_float_network_changes(trained, plain):
    setting = rung_setting(trained, TINY, ["min-max"])
    done = apply("bn-reestimation", setting, apply("bias-correction", setting, plain))
    assert done.name == "ptq:bn-fold+min-max+bn-reestimation+bias-correction"
    biases = [module.bias for module in done.sim.model.modules() if getattr(module, "bias", None) is not None]
    floats = [module.bias for module in done.model.modules() if getattr(module, "bias", None) is not None]
    assert any(not torch.equal(*pair) for pair in zip(biases, floats, strict=True))


def test_a_mixed_rung_by_gptq_rounds_anew_with_the_raised_bits(trained, tmp_path):
    """By the loss, which asks for more layers than the share of right digits does."""
    loss = Metric("loss", partial(functional.cross_entropy, reduction="none"), higher_is_better=False)
    setting = rung_setting(trained, Precision(2, 8), ["min-max", "gptq"])
    start, _, _ = quantize(setting)
    mixed = MixedParams(raise_to=Bits(weights=8, activations=8), max_drop=0.005)
    tried = trier(loss, trained.prepared, trained.splits["calibration"].after(100), 100, tmp_path)
    done, raised = raise_layers(start, setting, mixed, tried)
    assert len(raised) > 2 and done.name.endswith(f"gptq+{len(raised)} layers raised")
    assert left_db(trained, done) > left_db(trained, start) + 10


def test_what_feeds_only_an_activation_spends_no_bits_on_what_that_clips(plain):
    clipped = [
        quantizer.get_max().item()
        for name, module in plain.sim.model.named_modules()
        if isinstance(module, nn.Conv2d) and module.groups > 1
        for quantizer in module.output_quantizers
        if quantizer is not None
    ]
    assert clipped and max(clipped) <= 6.05  # the depthwise convolutions, each before a ReLU6


def test_mixed_precision_raises_the_fewest_layers_that_are_enough(trained, try_out):
    setting = rung_setting(trained, Precision(2, 8), ["min-max"])
    start, _, _ = quantize(setting)
    mixed = MixedParams(raise_to=Bits(weights=8, activations=8), max_drop=0.02)
    done, raised = raise_layers(start, setting, mixed, try_out)
    assert try_out(start.sim.model).found.drop > 0.02 >= try_out(done.sim.model).found.drop
    layers = [
        name for name, module in done.sim.model.named_modules() if "weight" in getattr(module, "param_quantizers", {})
    ]
    bits = {name: done.sim.model.get_submodule(name).param_quantizers["weight"].bitwidth for name in layers}
    assert {name for name, width in bits.items() if width == 8} == set(raised)
    assert 0 < len(raised) < len(layers) and list(raised) == sorted(raised)
    assert set(raised.values()) == {"W8A8"}


def test_a_layer_raised_to_16_bit_activations_has_them_behind_its_activation_too(trained):
    sim = build_sim(trained.prepared, trained.sample, Precision(8, 8), CONFIG)
    name = next(name for name in sim.layers("weight") if sim.ending(name) != name)
    sim.set_layers({name: Precision(8, 16)})
    bits = {one: sim.model.get_submodule(one).output_quantizers[0] for one in sim.layers("activation")}
    wide = {one for one, quantizer in bits.items() if quantizer is not None and quantizer.bitwidth == 16}
    assert sim.ending(name) in wide and wide <= {name, sim.ending(name)}
    sim.set_layers({name: Precision(8, 16), sim.ending(name): Precision(8, 8)})  # what is named itself has its own
    assert bits[sim.ending(name)].bitwidth == 8


def test_mixed_precision_orders_layers_by_their_own_noise_whatever_was_done_to_them(trained):
    """Weights that GPTQ rounded hold the noise of all layers: in each figure, if the order were measured on them."""

    def raised_in_turn(techniques):
        found = []

        def never_enough(model):
            weights = {name: getattr(module, "param_quantizers", {}) for name, module in model.named_modules()}
            found.append({name for name, own in weights.items() if "weight" in own and own["weight"].bitwidth == 8})
            worse = SimpleNamespace(is_enough=lambda *_: False, displaces=lambda _: False)
            return SimpleNamespace(**vars(worse), found=SimpleNamespace(drop=1.0))

        setting = rung_setting(trained, Precision(2, 8), techniques)
        mixed = MixedParams(raise_to=Bits(weights=8, activations=8), max_drop=0.0, cost="macs")
        raise_layers(quantize(setting)[0], setting, mixed, never_enough)
        return found

    turns = raised_in_turn(["min-max", "gptq"])
    assert [len(names) for names in turns[:4]] == [0, 1, 2, 4]
    assert turns == raised_in_turn(["min-max"])


def test_mixed_precision_raises_activations_where_they_cost_most(trained, tmp_path):
    """By the loss, which asks for more layers than the share of right digits does."""
    loss = Metric("loss", partial(functional.cross_entropy, reduction="none"), higher_is_better=False)
    tried = trier(loss, trained.prepared, trained.splits["calibration"].after(100), 100, tmp_path)
    setting = rung_setting(trained, Precision(8, 4), ["min-max"])
    start, _, _ = quantize(setting)
    mixed = MixedParams(raise_to=Bits(weights=8, activations=16), max_drop=0.01)
    done, raised = raise_layers(start, setting, mixed, tried)
    assert tried(start.sim.model).found.drop > 0.01
    assert set(raised.values()) == {"W8A16"} and len(raised) < len(start.sim.layers("weight"))
    assert left_db(trained, done) > left_db(trained, start) + 3


@pytest.mark.parametrize("growth", [0.05, 0.4])
def test_no_more_layers_are_raised_than_may_make_the_weights_larger(trained, try_out, growth):
    setting = rung_setting(trained, Precision(2, 8), ["min-max"])
    start, _, _ = quantize(setting)
    mixed = MixedParams(raise_to=Bits(weights=8, activations=8), max_drop=0.0, max_growth=growth)
    done, raised = raise_layers(start, setting, mixed, try_out)
    sizes = {name: cost.weights for name, cost in start.sim.costs().items()}
    assert raised and 3 * sum(sizes[name] for name in raised) <= growth * sum(sizes.values())
    assert left_db(trained, done) > left_db(trained, start)


def test_mixed_precision_leaves_alone_what_was_named_by_hand_and_counts_its_growth(trained, try_out):
    """A first layer at W8A16, by hand, must not be brought down to the W8A8 that others are raised to."""
    first = next(name for name, module in trained.prepared.named_modules() if isinstance(module, nn.Conv2d))
    setting = replace(rung_setting(trained, Precision(2, 8), ["min-max"]), layers={first: Precision(8, 16)})
    start, _, _ = quantize(setting)
    mixed = MixedParams(raise_to=Bits(weights=8, activations=8), max_drop=0.0, max_growth=0.3)
    done, raised = raise_layers(start, setting, mixed, try_out)
    assert raised and first not in raised
    layer = done.sim.model.get_submodule(first)
    assert layer.param_quantizers["weight"].bitwidth == 8
    assert done.sim.model.get_submodule(done.sim.ending(first)).output_quantizers[0].bitwidth == 16
    sizes = {name: cost.weights for name, cost in start.sim.costs().items()}
    assert 3 * sum(sizes[name] for name in (first, *raised)) <= 0.3 * sum(sizes.values())


def test_layers_named_by_hand_get_their_bits_and_a_wrong_name_is_refused(trained):
    setting = rung_setting(trained, TINY, ["min-max"])
    name = next(name for name, module in trained.prepared.named_modules() if isinstance(module, nn.Conv2d))
    done, _, _ = quantize(replace(setting, layers={name: Precision(8, 8)}))
    assert done.sim.model.get_submodule(name).param_quantizers["weight"].bitwidth == 8
    with pytest.raises(UserError, match=r"no quantized layer 'stem9'; near it are \S"):
        quantize(replace(setting, layers={"stem9": Precision(8, 8)}))


def test_sensitivity_tells_weights_from_activations(trained):
    rows = measure(
        trained.prepared,
        trained.sample,
        trained.splits["calibration"],
        CONFIG,
        SensitivityParams(weights=[2, 8], activations=[8], samples=50),
        50,
        trained.task.metric,
    )
    found = {(row.layer, row.what, row.bits): row.sqnr_db for row in rows}
    layers = {row.layer for row in rows if row.what == "weight"} - {ALL}
    assert len(layers) > 5
    assert all(found[name, "weight", 2] < found[name, "weight", 8] for name in layers)
    assert found[ALL, "weight", 2] <= min(found[name, "weight", 2] for name in layers) + 3
    summary = summarise(rows)
    assert summary.sensitive_to == "weight" and len(summary.worst) == 5
    assert summary.summary.startswith("The network is weight-sensitive: 2-bit weights alone leave ")

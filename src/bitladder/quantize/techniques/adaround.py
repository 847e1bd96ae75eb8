"""AdaRound: each weight rounded up or down as the layer's output asks (arXiv:2004.10568), on AIMET's own parts.

AIMET's driver fixes Adam's step at 1e-3, 32 samples a batch and 10,000 iterations and more a layer: made for GPUs. In
the few hundred iterations that a CPU affords such a step moves hardly a weight, so the loop over a layer is ours; the
rounding variable, its loss and the sampling of activations are AIMET's (2.42).
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from aimet_torch.adaround.activation_sampler import ActivationSampler
from aimet_torch.adaround.adaround_loss import AdaroundHyperParameters, AdaroundLoss
from aimet_torch.adaround.adaround_optimizer import AdaroundOptimizer
from aimet_torch.adaround.adaround_weight import Adaround
from aimet_torch.nn import QuantizationMixin
from torch import Tensor, nn
from tqdm import tqdm

from bitladder.params import AdaroundParams
from bitladder.quantize.sim.batches import Batches
from bitladder.quantize.sim.hooks import hooked
from bitladder.quantize.sim.sim import Sim
from bitladder.quantize.techniques.technique import (
    ADAROUND,
    SEQ_MSE,
    NotApplicable,
    Quantized,
    Setting,
    apply,
    with_biases,
    with_float_weights,
)
from bitladder.running.files import load_tensors, save_tensors
from bitladder.tasks.samples import Samples

__all__ = ["adaround", "round_weights"]

LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
"""The layers whose weights AIMET's AdaRound takes."""

BETA, WARM_START = (20, 2), 0.2  # AIMET's defaults: how the rounding is pressed to 0 or 1, and from when


def adaround(setting: Setting, start: Quantized | None) -> Quantized:
    """Each weight rounded up or down as the layer's output asks (arXiv:2004.10568)."""
    start = with_float_weights(setting, start or apply("min-max", setting, None), but=SEQ_MSE)
    sim, own = start.copy_sim(float_biases=True), setting.params.adaround
    if sim.block_weights():
        raise NotApplicable("AIMET's AdaRound takes weights per channel only")
    round_weights(sim, setting.fit.first(own.samples), own, setting.seed, setting.work / "adaround")
    return with_biases(setting, start, sim, ADAROUND)


def round_weights(sim: Sim, split: Samples, settings: AdaroundParams, seed: int, folder: Path) -> None:
    """Move the weights of a sim in place to where its grid takes them best; its weight ranges are kept from then on.

    Args:
        sim: with ranges for its weights.
        split: samples to fit the outputs of its float network's layers on.
        settings: iterations a layer, and so on.
        seed: of the batches, together with the layer's name.
        folder: rounded layers are kept here, so that a killed run goes on from the last.

    """
    sample = Batches(split, 1).one()
    batches: list[Any] = [(batch, {}) for batch in sim.batches(split, settings.batch_size)]
    with sim.as_modules(activations=False) as (reference, model):
        activations = sim.followers(reference)
        layers = _layers_in_order(reference, model, sample)
        with tqdm(layers, desc="adaround", unit="layer") as bar:
            for name, module in bar:
                bar.set_postfix_str(name)
                kept = folder / f"{name}.safetensors"
                with Adaround._replace_quantization_layer(model, name) as wrapper:
                    if kept.is_file():
                        wrapper.alpha.data.copy_(load_tensors(kept)["alpha"])
                    else:
                        sampler = ActivationSampler(module, wrapper, reference, model, _forward)
                        inputs, outputs = sampler.sample_and_place_all_acts_on_cpu(batches)
                        with _seeded(seed, name):
                            _round_layer(wrapper, activations.get(module), inputs, outputs, settings)
                        save_tensors(kept, {"alpha": wrapper.alpha})
                    wrapper.use_soft_rounding = False
                    with torch.no_grad():
                        wrapper.weight.copy_(wrapper.apply_adaround(wrapper.weight))
        for name, _ in layers:
            # calibration must not move the grid that the weights were put on
            weight: Any = model.get_submodule(name)
            weight.param_quantizers["weight"].allow_overwrite(False)


def _round_layer(wrapper: Any, activation: nn.Module | None, inputs: Tensor, outputs: Tensor, settings: Any) -> None:
    optimizer = torch.optim.Adam([wrapper.alpha], lr=settings.learning_rate)
    schedule = AdaroundHyperParameters(settings.iterations, settings.regularization, BETA, WARM_START)
    expected = activation(outputs) if activation else outputs
    for iteration in range(settings.iterations):
        rows = torch.randperm(len(inputs))[: settings.batch_size]
        found = AdaroundOptimizer._compute_output_with_adarounded_weights(wrapper, inputs[rows])
        if activation:
            found = activation(found)
        loss = AdaroundLoss.compute_recon_loss(found, expected[rows])
        loss = loss + AdaroundLoss.compute_round_loss(wrapper.alpha, schedule, iteration)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def _layers_in_order(reference: nn.Module, model: nn.Module, sample: tuple[Tensor, ...]) -> list[tuple[str, nn.Module]]:
    """Give the layers whose weights the sim quantizes, in the order in which they run."""
    found: dict[str, nn.Module] = {}
    names: dict[nn.Module, str] = {
        module: name for name, module in reference.named_modules() if isinstance(module, LAYERS)
    }

    def note(module: nn.Module, inputs: object, output: object) -> None:
        found.setdefault(names[module], module)

    with hooked(module.register_forward_hook(note) for module in names), torch.no_grad():
        reference(*sample)
    quantized = dict(model.named_modules())
    return [
        (name, module)
        for name, module in found.items()
        if isinstance(quantized[name], QuantizationMixin) and quantized[name].param_quantizers["weight"]
    ]


def _forward(model: nn.Module, *inputs: Tensor) -> Any:
    return model(*inputs)


@contextmanager
def _seeded(seed: int, name: str) -> Iterator[None]:
    """Draw a layer's batches from a generator of its own, so that a resumed run draws what an undisturbed one does."""
    with torch.random.fork_rng():
        torch.manual_seed(int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:7]))
        yield

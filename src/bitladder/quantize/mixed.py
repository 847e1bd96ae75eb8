"""Mixed precision: a few layers of a rung given more bits, so that its goal holds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

from tqdm import tqdm

from bitladder.network.scoring import Reference, noise_db, reference_of
from bitladder.params import MixedParams
from bitladder.precision import Precision
from bitladder.quantize.sim.layers import What
from bitladder.quantize.sim.sim import Sim
from bitladder.quantize.techniques.gptq import gptq
from bitladder.quantize.techniques.technique import GPTQ, Quantized, Setting, calibrated, with_biases
from bitladder.quantize.trial import Trial, Try
from bitladder.tasks.samples import Samples, held

__all__ = ["raise_layers"]

SAMPLES = 32  # to order the layers by; which of them are raised is decided on all samples


def raise_layers(
    quantized: Quantized, setting: Setting, mixed: MixedParams, try_out: Try
) -> tuple[Quantized, dict[str, str]]:
    """Raise layers to `mixed.raise_to` until the drop is within what `mixed` allows, as few as were found to do.

    Layers are ordered by the noise that each puts on the network's outputs for what raising it costs. The drop need not
    fall with each: so twice as many are tried from one on, and below the first that are enough, halves of what is left.
    Layers that have bits by hand keep these. What is returned has been tried itself. If nothing is enough, or no more
    layers fit into `mixed.max_growth`, it is the fewest layers that do as well as any, as far as the samples tell.

    Returns: the quantized network; the raised layers, by name, with their precision such as `W8A8`.
    """
    trials = {0: try_out(quantized.sim.model)}
    if trials[0].is_enough(mixed.max_drop, mixed.max_relative_drop):
        return quantized, {}
    order = _fitting(_order_layers(quantized, setting, mixed), quantized, setting, mixed)
    found = {0: quantized}
    with tqdm(desc="mixed precision", unit="try") as bar:

        def is_enough(count: int) -> bool:
            found[count] = _raised(quantized, setting, mixed, order[:count])
            trials[count] = try_out(found[count].sim.model)
            bar.set_postfix({"layers": count, "drop": trials[count].found.drop})
            bar.update()
            return trials[count].is_enough(mixed.max_drop, mixed.max_relative_drop)

        count = (_fewest(is_enough, len(order)) if order else None) or _as_good_as_any(trials)
    return found[count], {name: str(mixed.raise_to.precision) for name in sorted(order[:count])}


def _fewest(is_enough: Callable[[int], bool], most: int) -> int | None:
    """Find the fewest layers that are enough of those tried; None where none are."""
    low, high = 0, 1
    while not is_enough(high):
        if high == most:
            return None
        low, high = high, min(2 * high, most)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high


def _as_good_as_any(trials: Mapping[int, Trial]) -> int:
    """Give the fewest layers that no other number displaces."""
    return next(
        count
        for count in sorted(trials)
        if not any(trials[more].displaces(trials[count]) for more in trials if more > count)
    )


def _order_layers(quantized: Quantized, setting: Setting, mixed: MixedParams) -> list[str]:
    """Order a sim's layers with weights: the most noise on the outputs for the least cost first.

    It is measured on float weights: those that a technique rounded bring the noise of all layers into each figure.
    """
    few = held(setting.fit.first(SAMPLES))
    size = setting.params.batch_size
    costs = {name: cost for name, cost in _costs(quantized, setting, mixed).items() if name not in setting.layers}
    before, after = setting.precision, mixed.raise_to.precision
    raised: list[What] = []
    raised += ["weight"] if after.weights > before.weights else []
    raised += ["activation"] if after.activations > before.activations else []
    with TemporaryDirectory() as folder:
        reference = reference_of(quantized.model, few, size, Path(folder))
        sim = calibrated(setting, quantized.model, quantized.ranges, ()).sim
        return _ordered(sim, few, reference, size, costs, raised or ["weight"])


def _ordered(
    sim: Sim, few: Samples, reference: Reference, size: int, costs: Mapping[str, float], raised: Sequence[What]
) -> list[str]:
    gain = dict.fromkeys(costs, 0.0)
    for name, what in tqdm([*product(costs, raised)], desc="layers", unit="layer"):
        names = [name] if what == "weight" else [*{name, sim.ending(name)}]
        with sim.isolated(names, what):
            noise = noise_db(sim.model, few, reference, size, name)
        gain[name] += 10 ** (-noise / 10) / costs[name]
    return sorted(gain, key=lambda name: (-gain[name], name))


def _fitting(order: list[str], quantized: Quantized, setting: Setting, mixed: MixedParams) -> list[str]:
    """Leave out the layers that would make the weights larger than they may be, but not smaller ones after them."""
    if mixed.max_growth is None:
        return order
    weights = {name: cost.weights for name, cost in quantized.sim.costs().items()}
    bits = setting.precision.weights
    left, fitting = mixed.max_growth * sum(weights.values()) * bits, []
    left -= sum(weights[name] * (own.weights - bits) for name, own in setting.layers.items() if name in weights)
    for name in order:
        more = weights[name] * (mixed.raise_to.weights - bits)
        if more <= left:
            left -= more
            fitting.append(name)
    return fitting


def _costs(quantized: Quantized, setting: Setting, mixed: MixedParams) -> dict[str, float]:
    """Give what raising each layer costs: bytes of its weights, or multiplications at the wider precision.

    Where weights keep their bits there are no bytes to tell layers by: each costs the same.
    """
    costs = quantized.sim.costs()
    if mixed.cost == "bytes":
        wider = (mixed.raise_to.weights - setting.precision.weights) / 8
        return {name: cost.weights * wider if wider > 0 else 1.0 for name, cost in costs.items()}
    return {name: float(cost.weights * cost.positions) for name, cost in costs.items()}


def _raised(quantized: Quantized, setting: Setting, mixed: MixedParams, names: list[str]) -> Quantized:
    """Give a copy with these layers raised: their float weights put back, ranges and corrected biases found anew."""
    layers: Mapping[str, Precision] = dict.fromkeys(names, mixed.raise_to.precision)
    title = f"{len(names)} layers raised"
    if GPTQ in quantized.techniques:  # done anew: it has made up for the bits that these layers lacked
        done = gptq(replace(setting, layers={**setting.layers, **layers}), quantized)
        return replace(done, techniques=(*done.techniques, title))
    sim = quantized.copy_sim(float_biases=True)
    sim.put_back_weights(names)
    sim.set_layers(layers)
    return with_biases(setting, quantized, sim, title)

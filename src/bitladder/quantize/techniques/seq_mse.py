"""SeqMSE, as AIMET has it: weight ranges searched layer by layer."""

from bitladder.quantize.techniques.technique import (
    SEQ_MSE,
    NotApplicable,
    Quantized,
    Setting,
    apply,
    with_biases,
    with_float_weights,
)

__all__ = ["seq_mse"]

SEQ_MSE_BITS = 4
"""AIMET's SeqMSE passes over wider weights without a word."""


def seq_mse(setting: Setting, start: Quantized | None) -> Quantized:
    """Layer by layer, the weight ranges whose outputs are nearest to the float layer's."""
    bits = {setting.precision.weights, *(precision.weights for precision in setting.layers.values())}
    if min(bits) > SEQ_MSE_BITS:
        raise NotApplicable(f"it is for weights of at most {SEQ_MSE_BITS} bits")
    start = with_float_weights(setting, start or apply("min-max", setting, None))
    sim, own = start.copy_sim(float_biases=True), setting.params.seq_mse
    fit, size = setting.fit.first(own.samples), setting.params.batch_size
    # AIMET stacks the batches, so they must be alike: whole ones, or all samples as one
    few = sim.batches(fit.first(len(fit) // size * size) if len(fit) > size else fit, size)
    folder = setting.work / "seq-mse"
    folder.mkdir(parents=True, exist_ok=True)
    sim.search_ranges(few, own.candidates, folder)
    return with_biases(setting, start, sim, SEQ_MSE)

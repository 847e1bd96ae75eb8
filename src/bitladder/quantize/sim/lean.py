"""What takes the place of AIMET's code, where it is in force; another AIMET may lack what that imports."""

from contextlib import AbstractContextManager, nullcontext

from bitladder.running.patches import in_force

__all__ = ["install", "plain_tensors"]


def install() -> None:
    """Put all in AIMET's place for this process, where they are in force."""
    if in_force("lean-quantizers"):
        from bitladder.quantize.sim import fast_quant

        fast_quant.install()
    if in_force("small-scales"):
        from bitladder.quantize.sim import small_scales

        small_scales.install()
    if in_force("prequantized"):
        from bitladder.quantize.sim import prequantized

        prequantized.install()


def plain_tensors() -> AbstractContextManager[None]:
    """Give the context in which quantizers return plain tensors, where the lean quantizers are in force."""
    if not in_force("lean-quantizers"):
        return nullcontext()
    from bitladder.quantize.sim import fast_quant

    return fast_quant.plain_tensors()

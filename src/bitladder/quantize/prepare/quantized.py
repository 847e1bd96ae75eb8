"""Quantized definitions of modules that AIMET has, and quantizes not."""

from aimet_torch.nn import QuantizationMixin
from aimet_torch.nn.modules import custom
from torch import Tensor, nn

__all__ = ["COMPARISONS"]

COMPARISONS = (
    custom.Greater,
    custom.GreaterEqual,
    custom.Less,
    custom.LessEqual,
    custom.Equal,
    custom.NotEqual,
    custom.LogicalAnd,
    custom.LogicalOr,
    custom.LogicalNot,
)
"""Their outputs are true or false, and need no quantizer."""


@QuantizationMixin.implements(custom.Where)
class QuantizedWhere(QuantizationMixin, custom.Where):
    """Chooses among two quantized tensors; the condition is true or false and stays so."""

    def __quant_init__(self) -> None:
        """Make room for the quantizers."""
        super().__quant_init__()
        self.input_quantizers = nn.ModuleList([None, None, None])  # type: ignore[list-item]
        self.output_quantizers = nn.ModuleList([None])  # type: ignore[list-item]

    def forward(self, condition: Tensor, input: Tensor, other: Tensor) -> Tensor:
        """Quantize, choose, and quantize what is chosen."""
        _, *quantizers = self.input_quantizers
        values = [
            quantizer(one) if quantizer else one for quantizer, one in zip(quantizers, (input, other), strict=True)
        ]
        chosen = super().forward(condition, *values)
        return self.output_quantizers[0](chosen) if self.output_quantizers[0] else chosen


for _kind in COMPARISONS:
    if _kind not in QuantizationMixin.cls_to_qcls:
        QuantizationMixin.ignore(_kind)

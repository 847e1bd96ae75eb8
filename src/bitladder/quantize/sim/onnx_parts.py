"""What stands between layers of torch where a network came as ONNX: its other nodes, run by ONNX Runtime."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import helper
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["OnCpu", "Padded", "Part"]


class Padded(nn.Module):
    """Puts zeros around what a convolution sees that pads its sides differently."""

    def __init__(self, pads: tuple[int, ...]) -> None:
        """Take them in torch's order."""
        super().__init__()
        self._pads = pads

    def forward(self, x: Tensor) -> Tensor:
        """Pad."""
        return functional.pad(x, self._pads)


class OnCpu(nn.Module):
    """Brings an input to where ONNX Runtime takes it."""

    def forward(self, x: Tensor) -> Tensor:
        """Move, from a GPU."""
        return x.cpu()


class Part(nn.Module):
    """A node that ONNX Runtime runs. Its session is opened at the first call, which tells its inputs' types."""

    def __init__(
        self,
        proto: onnx.ModelProto,
        nodes: list[onnx.NodeProto],
        given: list[str],
        outputs: list[str],
        constants: list[onnx.TensorProto],
    ) -> None:
        """Take a node and quantizers around it, what they are given and give, and the constants that they read.

        Opset and functions are those of `proto`.
        """
        super().__init__()
        self._proto, self._nodes, self._given = proto, nodes, given
        self._outputs, self._constants = outputs, constants
        self._session: Any = None

    def forward(self, *values: Tensor) -> Any:
        """Run on a batch of one."""
        # detach: a call of torch's, by which it shows that this reads a tensor
        arrays = {name: value.detach().cpu().numpy() for name, value in zip(self._given, values, strict=True)}
        self._session = self._session or self._open(arrays)
        found = [torch.from_numpy(np.asarray(one)) for one in self._session.run(self._outputs, arrays)]
        return found[0] if len(found) == 1 else tuple(found)

    def _open(self, arrays: Mapping[str, np.ndarray]) -> Any:
        from aimet_onnx.utils import register_aimet_custom_ops

        inputs = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(arrays[name].dtype), None)
            for name in dict.fromkeys(self._given)
        ]
        outputs = [onnx.ValueInfoProto(name=name) for name in self._outputs]
        graph = helper.make_graph(self._nodes, "part", inputs, outputs, self._constants)
        proto = helper.make_model(
            graph,
            opset_imports=self._proto.opset_import,
            functions=self._proto.functions,
            ir_version=self._proto.ir_version,
        )
        options = register_aimet_custom_ops(onnxruntime.SessionOptions())
        options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 4
        # else each session keeps for itself the memory of all outputs that were held at once, for as long as it lives
        options.enable_cpu_mem_arena = False
        return onnxruntime.InferenceSession(proto.SerializeToString(), options, ["CPUExecutionProvider"])

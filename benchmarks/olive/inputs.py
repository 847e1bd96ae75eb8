"""Write what Olive starts from: a pipeline's FP32 network as ONNX, and the samples ours is fitted to and judged by.

Run in the pipeline's folder: python inputs.py FOLDER
"""

import sys
import warnings
from pathlib import Path

from bitladder.params import load_params
from bitladder.running import determinism

params = load_params()
determinism.pin(params.compute.threads)
warnings.filterwarnings("ignore")

import numpy as np  # noqa: E402
import torch  # noqa: E402

from bitladder.network.model import build_model, sample_inputs  # noqa: E402
from bitladder.tasks.splits import load_split  # noqa: E402
from bitladder.tasks.task import load_task  # noqa: E402

folder = Path(sys.argv[1])
model = build_model(load_task(params.task.factory, params.task.args), Path("build/train/weights.safetensors"))
split = load_split(Path("build/data/calibration.safetensors")).first(params.ptq.samples)
names = list(split.inputs)
torch.onnx.export(
    model, sample_inputs(split), folder / "fp32.onnx", input_names=names, output_names=["output"],
    dynamo=False, opset_version=21, dynamic_axes={name: {0: "batch"} for name in names},
)  # fmt: skip
for name, samples in (("samples", split), ("evaluation", load_split(Path("build/data/evaluation.safetensors")))):
    arrays = {key: values.numpy() for key, values in samples.inputs.items()}
    np.savez(folder / f"{name}.npz", **arrays, labels=samples.targets.numpy())

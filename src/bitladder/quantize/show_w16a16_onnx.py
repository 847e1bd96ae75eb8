"""Show how far aimet-onnx's QuantSim at 16/16 bits is from FP32, layer by layer. Run: python show.py

bitladder's W16A16 check left this beside the files that it reads; bitladder itself is not needed.
"""

import json
from pathlib import Path

import aimet_onnx
import onnx
import onnxruntime
from safetensors.numpy import load_file


def main() -> None:
    """Compare, and print."""
    here = Path(__file__).parent
    facts = json.loads((here / "facts.json").read_text())
    model = onnx.load(here / "model.onnx")
    stored = load_file(here / "samples.safetensors")
    stored = {key.split(".", 2)[2]: values for key, values in stored.items() if key.startswith("inputs.")}
    count = len(next(iter(stored.values())))
    samples = [{name: values[index : index + 1] for name, values in stored.items()} for index in range(count)]
    reference = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = [reference.run(None, sample) for sample in samples]
    sim = aimet_onnx.QuantizationSimModel(
        model, param_type="int16", activation_type="int16", quant_scheme="min_max", config_file=facts["quantsim_config"]
    )
    sim.compute_encodings(samples)
    print("versions:", facts["versions"], "config:", facts["quantsim_config"])  # noqa: T201
    print("FP32  ", expected)  # noqa: T201
    print("W16A16", [sim.session.run(None, sample) for sample in samples])  # noqa: T201
    print((here / "layers.csv").read_text())  # noqa: T201


if __name__ == "__main__":
    main()

"""Show how far AIMET's QuantSim at 16/16 bits is from FP32, layer by layer. Run: python show.py

bitladder's W16A16 check left this beside the files that it reads. bitladder is needed only to build the network.
"""

import json
from pathlib import Path

import torch
from aimet_torch.quantsim import QuantizationSimModel
from safetensors.torch import load_file

from bitladder.quantize.prepare.prepare import prepare
from bitladder.tasks.splits import load_split
from bitladder.tasks.task import load_task


def main() -> None:
    """Compare, and print."""
    here = Path(__file__).parent
    facts = json.loads((here / "facts.json").read_text())
    samples = tuple(load_split(here / "samples.safetensors").inputs.values())
    task = load_task(facts["task"]["factory"], facts["task"]["args"])
    sample = tuple(values[:1] for values in samples)
    model, _ = prepare(task.model().eval(), sample, facts["prepare"]["exclude"], task.quantization)
    model.load_state_dict(load_file(here / "weights.safetensors"))
    with torch.no_grad():
        reference = model(*samples)
        sim = QuantizationSimModel(
            model, samples, default_output_bw=16, default_param_bw=16, config_file=facts["quantsim_config"]
        )
        sim.compute_encodings(lambda simulated: simulated(*samples))
        simulated = sim.model(*samples)
    print("versions:", facts["versions"], "config:", facts["quantsim_config"])  # noqa: T201
    print("FP32  ", reference)  # noqa: T201
    print("W16A16", simulated)  # noqa: T201
    print((here / "layers.csv").read_text())  # noqa: T201


if __name__ == "__main__":
    main()

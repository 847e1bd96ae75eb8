"""Which published architectures go through `bitladder check --task`: random weights, by configuration.

Run: python benchmarks/untried.py [NET ...]. Needs transformers and timm (pip install timm). Each net is a task in a
pipeline of its own, as `bitladder init` makes one. Prints a Markdown table: SQNR in dB of the NPU's outputs against the
QuantSim's (FP16: against the module in FP16), and what was refused.
"""

import argparse
import re
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from ruamel.yaml import YAML

IMAGES = '{"image": torch.randn(count, 3, 64, 64, generator=generator)}'
TOKENS = '{"input_ids": torch.randint(1, 100, (count, 16), generator=generator)}'
SIZES = "hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128"
CONVOLUTIONS = "conv_dim=[32] * 7, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4"

NETS = {
    "swin_v2_t": ("torchvision.models", "swin_v2_t()", IMAGES),
    "efficientnet_v2_s": ("torchvision.models", "efficientnet_v2_s()", IMAGES),
    "mnasnet0_5": ("torchvision.models", "mnasnet0_5()", IMAGES),
    "lraspp": (
        "torchvision.models.segmentation",
        "lraspp_mobilenet_v3_large(weights=None, weights_backbone=None)",
        IMAGES,
    ),
    "bert": ("transformers", f"BertModel(BertConfig(vocab_size=100, {SIZES}))", TOKENS),
    "gpt2": (
        "transformers",
        "GPT2Model(GPT2Config(vocab_size=100, n_embd=64, n_layer=2, n_head=4, n_positions=32, use_cache=False))",
        TOKENS,
    ),
    "t5_encoder": (
        "transformers",
        "T5EncoderModel(T5Config(vocab_size=100, d_model=64, d_kv=16, num_layers=2, num_heads=4, d_ff=128))",
        TOKENS,
    ),
    "segformer": (
        "transformers",
        "SegformerForSemanticSegmentation(SegformerConfig("
        "depths=[1, 1, 1, 1], hidden_sizes=[16, 32, 64, 64], decoder_hidden_size=32))",
        IMAGES.replace("image", "pixel_values"),
    ),
    "wav2vec2": (
        "transformers",
        f"Wav2Vec2Model(Wav2Vec2Config({SIZES}, {CONVOLUTIONS}))",
        '{"input_values": torch.randn(count, 4000, generator=generator)}',
    ),
    "mobilevit_xxs": ("timm", "create_model('mobilevit_xxs')", IMAGES),
    "ghostnet_050": ("timm", "create_model('ghostnet_050')", IMAGES),
    "repvgg_a0": ("timm", "create_model('repvgg_a0')", IMAGES),
    "convmixer": ("timm.models.convmixer", "ConvMixer(64, 4)", IMAGES),
}
"""Where from; how it is built; samples."""

TASK = """
import torch
from torch import nn
from {source} import *

from bitladder.tasks.label_free import label_free


def samples(seed):
    generator = torch.Generator().manual_seed(seed)
    counts = {{"train": 8, "calibration": 16, "evaluation": 8}}
    return {{name: {inputs} for name, count in counts.items()}}


def model():
    torch.manual_seed(0)
    network = {network}
    if any(isinstance(one, nn.modules.batchnorm._BatchNorm) for one in network.modules()):
        network.train()
        with torch.no_grad():
            for _ in range(5):  # so that the norms fit their inputs, as coverage.py does
                network(*samples(0)["calibration"].values())
    return network


def task():
    return label_free(model, samples, compare="cosine")
"""

PARAMS = {
    "compute": {"threads": 1},
    "train": {"epochs": 0},
    "ptq": {"techniques": ["min-max"], "samples": 16, "batch_size": 4},
    "evaluate": {"batch_size": 4},
    "sensitivity": {"samples": 8},
    "qat": {"when": "never"},
    "export": {"samples": 4},
    "target": {"samples": 4, "workers": 1},
    "bundle": {"samples": 2},
}

RUNGS = {"fp16": "FP16", "balanced": "W8A16", "compact": "W8A8", "tiny": "W4A8"}


def main() -> None:
    """Try each, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nets", nargs="*", default=list(NETS))
    parser.add_argument("--limit", type=float, default=900, help="seconds for each")
    given = parser.parse_args()
    print(f"| net | prepared | {' | '.join(RUNGS.values())} | float | refused |\n|---|---|---|---|---|---|---|---|")
    for net in given.nets:
        with TemporaryDirectory() as folder:
            print(row(net, check(net, Path(folder) / "pipeline", given.limit)), flush=True)


def check(net: str, folder: Path, limit_s: float) -> str:
    """Make its pipeline and run `bitladder check --task` there; give what it printed."""
    subprocess.run(["bitladder", "init", str(folder)], check=True, stdout=subprocess.DEVNULL)
    source, network, inputs = NETS[net]
    (folder / "task.py").write_text(TASK.format(source=source, network=network, inputs=inputs), "utf-8")
    yaml = YAML()
    params = yaml.load(folder / "params.yaml")
    for block, values in PARAMS.items():
        params[block].update(values)
    yaml.dump(params, folder / "params.yaml")
    try:
        command = ["bitladder", "check", "--task"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired as error:
        return f"{(error.stdout or b'').decode()}\n  refused    check: not finished in {limit_s:g} s"
    last = done.stderr.replace("\r", "\n").strip().splitlines()[-1:]
    return done.stdout + "".join(f"\n  refused    check: {line}" for line in last if done.returncode)


def row(net: str, said: str) -> str:
    """Read a row of the table from what was printed."""
    prepared, in_float, reached = "-", "-", "fp16"
    decibels, refused = dict.fromkeys(RUNGS, "-"), []
    for step, found in re.findall(r"^  (\S+) +(.*?)(?: \(\d+ s\))?$", said, re.MULTILINE):
        if step == "prepare":
            prepared = found.partition("; outputs")[0]
        elif step == "float":
            in_float = found.replace("every tensor has its quantizer", "none")
        elif step == "refused":
            refused.append(found)
        elif step == "target" and (value := re.search(r"; (-?[\d.]+) dB against", found)):
            decibels[reached] = value[1]
        elif found.partition(": ")[0] in RUNGS:
            reached = found.partition(": ")[0]
    return f"| {' | '.join([net, prepared, *decibels.values(), in_float, '; '.join(refused) or 'nothing'])} |"


if __name__ == "__main__":
    main()

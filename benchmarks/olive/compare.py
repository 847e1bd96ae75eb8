"""Print metric and SQNR of quantized ONNX files, through ONNX Runtime and on the emulated NPU.

Run in the pipeline's folder: python compare.py '{"title|tool": "file.onnx", ...}' NPU_SAMPLES SCRATCH
"""

import json
import sys
import warnings
from pathlib import Path

from bitladder.params import load_params
from bitladder.running import determinism

params = load_params()
determinism.pin(params.compute.threads)
warnings.filterwarnings("ignore")


def main() -> None:
    """Compare each file's answers with FP32's."""
    import onnx
    import torch

    from bitladder.errors import UserError
    from bitladder.export.checks import run_unoptimised
    from bitladder.network.evaluate import compare
    from bitladder.running.files import load_tensors
    from bitladder.targets.context import compile_model, run
    from bitladder.tasks.splits import load_split
    from bitladder.tasks.task import load_task

    task = load_task(params.task.factory, params.task.args)
    split = load_split(Path("build/data/evaluation.safetensors"))
    (fp32,) = load_tensors(Path("build/baseline/outputs.safetensors")).values()
    few, scratch = split.first(int(sys.argv[2])), Path(sys.argv[3])
    print(f"\nFP32: {100 * task.metric({'output': fp32}, split.targets):.1f} % of {len(split)}")
    print("\n| rung | tool | metric | SQNR to FP32 | file | emulated NPU | NPU to its own ONNX Runtime |")
    print("|---|---|---|---|---|---|---|")
    for title, file in json.loads(sys.argv[1]).items():
        rung, tool = title.split("|")
        (answers,) = run_unoptimised(Path(file), split).values()
        found = compare(task.metric, {"output": answers}, {"output": fp32}, split.targets)
        fixed = scratch / f"{rung}-{tool}.onnx"  # the NPU wants fixed shapes
        model = onnx.load(file)
        for value in model.graph.input:
            value.type.tensor_type.shape.dim[0].dim_value = 1
        onnx.save(model, fixed)
        try:
            work = scratch / f"npu-{rung}-{tool}"
            work.mkdir()
            compiled = compile_model(fixed, work / "compiled", params.soc, False, 600, work)
            (chip,) = run(compiled, params.soc, False, few, params.target, work).values()
            on_npu = compare(
                task.metric, {"output": torch.as_tensor(chip)}, {"output": answers[: len(few)]}, few.targets
            )
            npu = f"{100 * on_npu.value:.1f} % of {len(few)} | {on_npu.sqnr_db:.1f} dB"
        except UserError as error:
            npu = f"refused: {str(error)[:80]} | -"
        print(
            f"| {rung} | {tool} | {100 * found.value:.1f} % | {found.sqnr_db:.1f} dB"
            f" | {Path(file).stat().st_size:,} B | {npu} |"
        )


if __name__ == "__main__":
    main()

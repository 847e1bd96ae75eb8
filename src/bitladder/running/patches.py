"""Where other packages' code is replaced, or called by names that they keep to themselves, and for which versions.

A release of theirs may change such code without a word. So each place asks here first: with a version that it was not
checked with, a patch is off, and says so once in a line. PRIVATE lists what is only called: a name that has gone fails
by itself. `tests/running/test_patches.py` finds what is replaced or called and not listed.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache

from bitladder.errors import UserError
from bitladder.running.version import installed

__all__ = ["PATCHES", "PRIVATE", "Patch", "in_force", "require"]


@dataclass(frozen=True)
class Patch:
    """What is replaced, or called where nothing is; why; versions that it was checked with; what is lost without it."""

    why: str
    checked: Mapping[str, str]
    off: str
    replaces: tuple[str, ...] = ()
    calls: tuple[str, ...] = ()


_AIMET, _DVC = {"aimet-torch": "2.42.*", "torch": "2.14.*"}, {"dvc": "3.67.*"}

PATCHES = {
    "same-roots": Patch(
        why="torch takes MKL's roots, which start from the processor's own estimate and differ with it in the last bit",
        checked={"torch": "2.14.*"},
        off="training may give other bits on another maker's processor",
        replaces=tuple(f"torch.ops.aten.{name}" for name in ("sqrt", "log2", "log10", "tan", "asin", "acos", "atan")),
    ),
    "aimet-import": Patch(
        why="most of the time of AIMET's import goes into what the pipeline never calls; stand-ins take its place",
        checked={**_AIMET, "torchvision": "0.29.*"},
        off="AIMET's import takes about 10 s instead of 3",
        replaces=(
            "torch.compile",
            "torch.compiler.disable",
            "torch._dynamo",
            "torch._dynamo.utils",
            "bokeh",
            "bokeh.application",
            "bokeh.server",
            "bokeh.server.server",
            "aimet_torch.visualization_tools",
            "transformers",
            "triton",
        ),
    ),
    "aimet-export": Patch(
        why="AIMET loads TorchDynamo to ask whether the network that it exports was compiled, which none is",
        checked=_AIMET,
        off="the first export of a process takes longer",
        replaces=("aimet_torch.onnx._check_unsupported_args",),
    ),
    "lean-quantizers": Patch(
        why="the same quantization in fewer passes over each tensor",
        checked=_AIMET,
        # gradients of ranges are sums in another order
        off="QAT on a CPU takes longer, and its results differ from the patch's in the last bits",
        replaces=("aimet_torch.quantization.affine.QuantizeDequantize.forward",),
    ),
    "small-scales": Patch(
        why="AIMET's least scale is coarse for small weights and activations, and the NPU has no such limit",
        checked=_AIMET,
        off="at 16 bits ranges under 0.008 are quantized in fewer steps than on the NPU",
        replaces=(
            "aimet_torch.quantization.affine.quantizer._get_minimum_scale",
            "aimet_torch.quantization.affine.quantizer.AffineQuantizerBase.set_range",
            "aimet_torch.quantization.encoding_analyzer._get_minimum_scale",
        ),
    ),
    "prequantized": Patch(
        why="AIMET asks at 16 bits of all float weights whether they are on a grid already, at length",
        checked=_AIMET,
        off="the W16A16 check of a network with millions of weights takes minutes longer",
        replaces=("aimet_torch.utils._select_divisor",),
        calls=(
            "aimet_torch.utils._ABS_OFFGRID_CEIL",
            "aimet_torch.utils._DecompositionError",
            "aimet_torch.utils._MIN_MATCHED_FRAC",
            "aimet_torch.utils._ULP_SAFETY",
            "aimet_torch.utils._candidate_divisors",
        ),
    ),
    "traced-lines": Patch(
        why="torch.fx notes the user's line of a call if its tracer is told to, and AIMET makes the tracer",
        checked=_AIMET,
        off="an op that the NPU does not take is named without the user's line",
        replaces=("torch.fx.Tracer.record_stack_traces",),
    ),
    "ai-hub-submit": Patch(
        why="the client repeats a submission whose answer was lost, and AI Hub would run the job twice",
        checked={"qai-hub": "0.56.*"},
        off="a submission whose answer is lost may run twice",
        replaces=("qai_hub.util.session.MAX_RETRIES",),
    ),
    "ray-loopback": Patch(
        why="Ray takes an address of this machine's that others can reach in the place of 127.0.0.1",
        checked={"ray": "2.60.*"},
        off="with compute.cluster: local, Ray listens on all of this machine's addresses, behind a token",
        replaces=("ray._private.services.resolve_ip_for_localhost",),
    ),
    "dvc-push": Patch(
        why="DVC pushes of its run cache only the results that dvc.lock names",
        checked=_DVC,
        off="`dvc push --run-cache` sends all but the metrics of runs that were not committed",
        calls=(
            "dvc.data_cloud.DataCloud.push",
            "dvc.stage.cache.StageCache.get_used_objs",
            "dvc.stage.cache.StageCache.push",
            "dvc_data.hashfile.db.HashFileDB.exists",
        ),
    ),
    "dvc-lock": Patch(
        why="DVC's own schema says whether it would take dvc.lock",
        checked=_DVC,
        off="dvc.lock is checked less strictly",
        calls=("dvc.schema.COMPILED_LOCKFILE_SCHEMA",),
    ),
    "dvc-cache": Patch(
        why="DVC has no command that says where its cache holds an object",
        checked=_DVC,
        off="objects in DVC's cache are not found",
        calls=("dvc_data.hashfile.db.HashFileDB.oid_to_path",),
    ),
    "dvc-experiments": Patch(
        why="a table of outcomes needs each experiment's commit, and a cluster's workers what DVC has queued",
        checked=_DVC,
        off="`dvc queue start` and `dvc exp show` run and list experiments",
        replaces=("dvc.repo.experiments.queue.base.BaseStashQueue.get_stash_entry",),
        calls=(
            "dvc.repo.experiments.Experiments.ls",
            "dvc.repo.experiments.executor.base.ExecutorInfo.load_json",
            "dvc.repo.experiments.queue.celery.LocalCeleryQueue.iter_queued",
            "dvc.repo.experiments.queue.celery.LocalCeleryQueue.remove",
            "dvc.repo.experiments.queue.tasks.run_exp",
        ),
    ),
}

PRIVATE = {
    "aimet_onnx.qc_quantize_op.QcQuantizeOp._copy": "a Concat's inputs with ranges of their own",
    "aimet_onnx.qc_quantize_op.QcQuantizeOp._enable_blockwise_quantization": "block weights",
    "aimet_onnx.qc_quantize_op.QcQuantizeOp._encoding_min_max_fixed_vals": "scales under aimet-onnx's limits",
    "aimet_onnx.quantsim.QuantizationSimModel._adjust_weight_scales_against_overflow": "scales under its limits",
    "aimet_onnx.quantsim.QuantizationSimModel._rebuild_session": "weights that techniques changed",
    "aimet_onnx.quantsim.QuantizationSimModel._set_quantizers": "a Concat's inputs with ranges of their own",
    "aimet_torch.adaround.adaround_optimizer.AdaroundOptimizer._compute_output_with_adarounded_weights": "AdaRound",
    "aimet_torch.adaround.adaround_weight.Adaround._replace_quantization_layer": "AdaRound",
    "aimet_torch.model_preparer._find_functional_name_for_node": "which calls AIMET's preparer knows",
    "aimet_torch.model_preparer._prepare_traced_model": "AIMET's preparer, after ours",
    "aimet_torch.model_preparer._trace_model": "AIMET's preparer, after ours",
    "aimet_torch.nn.QuantizationMixin._remove_output_quantizers": "outputs for bias correction",
    "aimet_torch.quantization.affine.QuantizeDequantize._is_overwrite_allowed": "ranges that stay, in a copied sim",
    "aimet_torch.quantization.affine.encoding.AffineEncoding._hint_input_shape": "the encodings of block weights",
    "aimet_torch.quantization.affine.QuantizeDequantize._symmetric": "lean-quantizers",
    "aimet_torch.quantization.affine.backends.torch_builtins._round_fn": "lean-quantizers",
    "aimet_torch.utils._enable_qtensor_casting": "lean-quantizers",
    "aimet_torch.utils._is_qtensor_casting_enabled": "lean-quantizers",
    "atexit._run_exitfuncs": "the end of a forked stage",
    "threading._shutdown": "the end of a forked stage",
    "torchmetrics.Metric._reductions": "how a metric's states add up, to draw samples anew",
    "torchmetrics.Metric._defaults": "what a metric accumulates, kept for a killed pass",
    "torch.Tensor._version": "whether a tensor was changed in place",
    "torch.nn.Conv2d._forward_pre_hooks": "weight and spectral norms, which are hooks",
    "torch.nn.Conv2d._parameters": "a layer's own weight, which AIMET may hide",
    "torch.nn.Conv2d._reversed_padding_repeated_twice": "what a convolution sees",
}
"""What is called and not replaced, and what for."""


@cache
def in_force(name: str) -> bool:
    """Tell whether a patch is checked with what is installed. Where it is not, say so on stderr, once a process."""
    difference = _difference(name)
    if difference:
        sys.stderr.write(f"patch {difference}\n")
    return difference is None


def require(name: str) -> None:
    """Raise UserError where a patch that nothing can do without is not checked with what is installed."""
    if difference := _difference(name):
        wanted = " ".join(f"'{package}=={pattern}'" for package, pattern in PATCHES[name].checked.items())
        raise UserError(f"{difference}; or pip install {wanted}")


def _difference(name: str) -> str | None:
    patch = PATCHES[name]
    for package, pattern in patch.checked.items():
        found = installed(package)
        if found is None or not fnmatchcase(found, pattern):
            return f"{name} is off: checked with {package} {pattern}, and {found or 'none'} is installed; {patch.off}"
    return None

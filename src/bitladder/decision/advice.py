"""What to try next where no rung meets the goals. Plain text from plain numbers; no torch."""

from bitladder.decision.goals import Verdict
from bitladder.params import Params

__all__ = ["advise"]

ACCURACY = {"goals.max_drop", "goals.max_relative_drop", "goals.min_value"}


def advise(params: Params, nearest: Verdict, came_as_onnx: bool) -> tuple[str, ...]:
    """Say what would bring the nearest rung to the goals: a technique, a rung, or a goal that cannot be met here.

    A network that came as ONNX is not trained, and training is not proposed for it.
    """
    missed = {miss.goal for miss in nearest.misses}
    late = next((miss.soc for miss in nearest.misses if miss.goal == "goals.max_latency_ms"), None)
    steps: list[str] = []
    if missed & ACCURACY and nearest.rung != "fp16":
        steps += _more_accuracy(params, nearest, came_as_onnx)
    if "target.max_gap" in missed:
        steps.append(
            f"the target diverges from the simulation at {nearest.rung}: `bitladder gap {nearest.rung}` names the layer"
            " where, and the cause where it is known; raise target.samples if the gap is a few samples wide"
        )
    if "goals.max_memory_bytes" in missed:
        steps.append(_lower_rung(params, nearest, came_as_onnx))
    if "goals.max_latency_ms" in missed:
        measured = nearest.measured.socs[late] if late else nearest.measured
        latency = measured.latency_ms
        if latency is None:
            steps.append("measure latency on a device (target.backend), or leave goals.max_latency_ms at null")
        elif measured.latency_source == "estimated" and not params.goals.accept_latency_estimates:
            steps.append(
                f"set goals.accept_latency_estimates: true to go by the estimate ({latency:.3g} ms), or measure on a"
                " device (target.backend)"
            )
        else:
            steps.append(_lower_rung(params, nearest, came_as_onnx))
    if nearest.refused:
        return ("mend what the rungs are refused for; `bitladder check --task` tries it in seconds",)
    for soc in (miss.soc for miss in nearest.misses if miss.goal == "target"):
        if soc:
            steps.append(f"leave {soc} out of goals.per_soc, as it does not take {nearest.precision}")
        else:
            steps.append(f"choose a target.soc that takes {nearest.precision}")
    return tuple(dict.fromkeys(steps)) or ("FP16 itself misses the goals: they ask more than this network holds",)


def _more_accuracy(params: Params, nearest: Verdict, came_as_onnx: bool) -> list[str]:
    steps = _training(params, nearest, came_as_onnx)
    if params.ptq_of(nearest.rung).techniques != "auto":
        steps.append(f"let PTQ try all it has: set ladder.{nearest.rung}.ptq.techniques to auto")
    rung = params.ladder[nearest.rung]
    if not rung.mixed:
        steps.append(f"raise the few layers that need more bits: set ladder.{nearest.rung}.mixed")
    if rung.activations < 16:
        steps.append(f"give {nearest.rung} 16-bit activations, if memory and latency allow")
    return steps


def _training(params: Params, nearest: Verdict, came_as_onnx: bool) -> list[str]:
    """Say what is left to gain by training: the rung's record says whether QAT ran, and why not."""
    ran, _, why = (nearest.qat or "").partition(": ")
    if nearest.technique == "qat":
        return [f"train {nearest.rung} longer: qat.epochs is {params.qat.epochs}"]
    if ran == "not needed":
        train = "" if came_as_onnx else "; to train all the same, set qat.when to always"
        return [f"QAT was not needed, as PTQ meets the accuracy goals on calibration samples{train}"]
    if ran == "not run" and params.qat.when != "never":
        return [f"QAT cannot run: {why}"]
    if came_as_onnx:
        return []
    if ran == "not run":
        return ["let QAT run: set qat.when to always"]
    return ["QAT did not beat PTQ: lower qat.learning_rate, or raise qat.epochs"]


def _lower_rung(params: Params, nearest: Verdict, came_as_onnx: bool) -> str:
    narrowest = min(rung.weights for rung in params.ladder.values())
    if nearest.rung != "fp16" and params.ladder[nearest.rung].weights > narrowest:
        means = "all that PTQ has (ptq.techniques: auto)" if came_as_onnx else "QAT (qat.when: always)"
        return f"the rungs below are smaller but miss more goals: raise their accuracy with {means}"
    smaller = [bits for bits in (8, 4) if bits < narrowest]
    if smaller:
        return f"add a rung with {smaller[0]}-bit weights below {params.rungs()[-1]}"
    return "the ladder ends at 4-bit weights: a smaller network, or a higher limit, is what is left"

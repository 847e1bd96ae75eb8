"""A network's calls as modules, so that each has its quantizers: ours first, then what AIMET's own preparer knows."""

import inspect
from collections.abc import Sequence
from typing import Any

from aimet_torch import model_preparer
from torch import Tensor, fx, nn

from bitladder.errors import UserError
from bitladder.network.lines import keep_lines, line_of
from bitladder.quantize.prepare import formulas, layers, quantized, shapes  # noqa: F401  they register what they know
from bitladder.quantize.prepare.attention import MASKED
from bitladder.quantize.prepare.calls import HANDLERS
from bitladder.quantize.prepare.facts import LIKE, Facts, find_facts
from bitladder.quantize.prepare.trace import Scopes, call_name, trace
from bitladder.quantize.prepare.writer import Writer

__all__ = ["rewrite"]

MAKES = {"arange", "zeros", "ones", "full", "eye", "linspace", *LIKE}

OURS = {
    "scaled_dot_product_attention", "where", "batch_norm", "group_norm", "norm", "rsqrt", "mish", "selu", "celu",
    "softsign", "logsigmoid", "log_sigmoid", "tanhshrink", "softshrink", "hardshrink",
    "threshold", "glu", "addmm",
}  # fmt: skip
"""Calls that AIMET's preparer knows too, but not for every form of them or not with a quantizer at each step."""

BROADCAST = {
    "add",
    "sub",
    "mul",
    "div",
    "truediv",
    "maximum",
    "minimum",
    "where",
    "masked_fill",
    "iadd",
    "imul",
    "isub",
}

TAKEN = "bitladder_taken"


def rewrite(
    model: nn.Module, sample: tuple[Tensor, ...], left: Sequence[nn.Module], may_export: bool
) -> tuple[fx.GraphModule, bool]:
    """Give a network of modules alone, each called once.

    A network whose calls AIMET's preparer all knows is left to it alone: its weights keep their names.

    Args:
        model: as the user wrote it.
        sample: a batch of one.
        left: modules that are not looked into.
        may_export: whether torch.export may trace what torch.fx cannot; it looks into every module.

    Returns: the network, with the lines of the calls noted on it; whether torch.export traced it.

    """
    model.eval()
    traced, scopes, by_export = trace(model, sample, left, may_export)
    calls = {node.name: line_of(node) for node in traced.graph.nodes}
    for node in traced.graph.nodes:
        node.meta[TAKEN] = _is_taken(traced, scopes, node)
    if any(_is_ours(node) or _makes(node) for node in traced.graph.nodes):
        _write_modules(traced, scopes, sample)
    model_preparer._prepare_traced_model(traced, scopes)
    keep_lines(traced, _lines_of_calls(traced, calls))
    return traced, by_export


def _lines_of_calls(traced: fx.GraphModule, calls: dict[str, str]) -> dict[str, str]:
    """Give the lines of modules that stand for calls; they are named for these, `block.module_add_1` for `add_1`."""
    found = {}
    for path in (str(node.target) for node in traced.graph.nodes if node.op == "call_module"):
        scope, _, name = path.rpartition(".")
        call = name.removeprefix("module_") if name.startswith("module_") else ""
        while call and call not in calls:
            again = f"{scope.replace('.', '_')}_{call}"  # of a layer that is called a second time
            call = again if again in calls else call.rpartition("_")[0]
        if line := calls.get(call):
            found[path] = line
    return found


def _write_modules(traced: fx.GraphModule, scopes: Scopes, sample: tuple[Tensor, ...]) -> None:
    facts = find_facts(traced, sample)
    own = set(traced.graph.nodes)
    _settle(traced, facts, scopes)
    for node in list(traced.graph.nodes):
        if _is_ours(node) and node not in facts.fixed:
            _write(traced, facts, node, scopes)
    _forget_unused(traced, facts, own)
    traced.graph.lint()
    traced.recompile()


def _makes(node: fx.Node) -> bool:
    """Tell a call that makes a tensor of a size alone."""
    return node.op in ("call_function", "call_method") and call_name(node) in MAKES


def _is_ours(node: fx.Node) -> bool:
    if node.op not in ("call_function", "call_method") or call_name(node) not in HANDLERS:
        return False
    if node.target is getattr:
        return node.args[1] in ("T", "mT")
    return not _aimet_knows(node)


def _is_taken(traced: fx.GraphModule, scopes: Scopes, node: fx.Node) -> bool:
    """Tell a call whose module AIMET's preparer would put in the place of one of the user's, as `module_add`."""
    if node.op not in ("call_function", "call_method"):
        return False
    path = f"{scopes.get(node.name, ('', None))[0]}.module_{node.name}".removeprefix(".")
    taken = path in dict(traced.named_modules())
    if taken and call_name(node) not in HANDLERS:
        raise UserError(f"task: AIMET's preparer gives the name of the model's module {path!r} to a call; rename it")
    return taken


def _aimet_knows(node: fx.Node) -> bool:
    """Tell whether AIMET's preparer makes a module of this very call that does the same."""
    name = model_preparer._find_functional_name_for_node(node.name)
    if name is None or node.meta.get(TAKEN) or name in OURS:
        return False
    if name in model_preparer.functional_with_stateful_api:
        return len(node.args) == 1 and not set(node.kwargs) & {"input", "self"} and name != "prelu"
    if name in model_preparer.functional_with_special_handling:
        return not str(node.target).startswith("aten.") and bool(node.args)
    if name in ("add", "sub", "subtract", "mul", "div", "truediv"):
        numbers_first = name not in ("add", "mul") and not isinstance(node.args[0], fx.Node)
        return len(node.args) == 2 and not node.kwargs and not numbers_first and not _in_place(node)
    if name == "matmul":
        return len(node.args) == 2 and not any(_is_weight(operand) for operand in node.args)
    if name in ("pad", "_pad"):
        arguments: dict[str, Any] = dict(zip(("input", "pad", "mode", "value"), node.args, strict=False))
        arguments |= node.kwargs
        # without a value, an empty name stands in the exported graph, at which AIMET's export stops
        return arguments.get("value") == 0 and all(isinstance(size, int) and size >= 0 for size in arguments["pad"])
    if name == "masked_fill":
        value = node.args[2] if len(node.args) == 3 else node.kwargs.get("value")
        return isinstance(value, int | float) and value >= MASKED
    return True


def _is_weight(operand: Any) -> bool:
    """Tell what is made of the network's own weights alone."""
    if not isinstance(operand, fx.Node) or operand.op == "placeholder":
        return False
    inputs = operand.all_input_nodes
    return operand.op == "get_attr" or (bool(inputs) and operand.op != "call_module" and all(map(_is_weight, inputs)))


def _in_place(node: fx.Node) -> bool:
    target: Any = node.target
    if isinstance(target, str):
        return target.endswith("_") and not target.endswith("__")
    name = str(target).split(".")[1] if str(target).startswith("aten.") else target.__name__
    return (name.endswith("_") and not name.endswith("__")) or name in ("iadd", "isub", "imul", "itruediv")


def _settle(traced: fx.GraphModule, facts: Facts, scopes: Scopes) -> None:
    """Put constants in the place of what is computed of sizes and weights alone."""
    for node in list(traced.graph.nodes):
        value = facts.fixed.get(node)
        readers = [user for user in node.users if user not in facts.fixed]
        if node.op == "get_attr" or not readers:
            continue
        if isinstance(value, Tensor):
            with traced.graph.inserting_after(node):
                constant = Writer(traced, facts, node, _scope(traced, scopes, node)).constant(value)
            facts.fixed[constant], facts.shapes[constant] = value, tuple(value.shape)
            if value.is_floating_point():
                facts.floats.add(constant)
            for reader in readers:
                reader.replace_input_with(node, constant)
        elif node in facts.per_batch:
            _settle_per_batch(traced, facts, node, _scope(traced, scopes, node))
        elif isinstance(value, int):
            for reader in readers:
                swap = lambda one, node=node, value=value: value if one is node else one  # noqa: E731
                reader.args = fx.map_arg(reader.args, swap)
                reader.kwargs = fx.map_arg(reader.kwargs, swap)


def _settle_per_batch(traced: fx.GraphModule, facts: Facts, node: fx.Node, scope: str) -> None:
    """Put a constant for one sample where what reads it repeats it for each of a batch."""
    readers = [reader for reader in node.users if _repeats(traced, facts, node, reader)]
    if not readers:
        return
    with traced.graph.inserting_after(node):
        constant = Writer(traced, facts, node, scope).constant(facts.per_batch[node])
    facts.fixed[constant], facts.shapes[constant] = facts.per_batch[node], facts.shapes[node]
    if node in facts.floats:
        facts.floats.add(constant)
    for reader in readers:
        reader.replace_input_with(node, constant)


def _repeats(traced: fx.GraphModule, facts: Facts, node: fx.Node, reader: fx.Node) -> bool:
    if reader in facts.per_batch or reader in facts.fixed:
        return False
    is_layer = reader.op == "call_module" and isinstance(traced.get_submodule(str(reader.target)), nn.Embedding)
    if is_layer or (reader.op == "call_function" and call_name(reader) == "embedding"):
        return bool(reader.users) and all(_repeats(traced, facts, reader, user) for user in reader.users)
    if reader.op not in ("call_function", "call_method") or call_name(reader) not in BROADCAST:
        return False
    rank = len(facts.shapes[node])
    others = [one for one in reader.all_input_nodes if one not in facts.fixed and one not in facts.per_batch]
    return any(one is not node and len(facts.shapes.get(one, ())) >= rank for one in others)


def _scope(traced: fx.GraphModule, scopes: Scopes, node: fx.Node) -> str:
    path = scopes.get(node.name, ("", None))[0]
    modules = dict(traced.named_modules())
    # not within what holds a layer's weights: the layer takes its place
    while path not in modules or (path and next(modules[path].parameters(recurse=False), None) is not None):
        path = path.rpartition(".")[0]
    return path


def _write(traced: fx.GraphModule, facts: Facts, node: fx.Node, scopes: Scopes) -> None:
    handle, (arguments, named) = HANDLERS[call_name(node)], (node.args, node.kwargs)
    try:
        inspect.signature(handle).bind(None, *arguments, **named)
    except TypeError:  # a form of the call that the handler does not know
        return
    computes = node in facts.floats
    with traced.graph.inserting_before(node):
        result = handle(Writer(traced, facts, node, _scope(traced, scopes, node)), *arguments, **named)
    if result is NotImplemented:
        return
    for pick in list(node.users):  # of parts that are replaced already
        if not pick.users and pick.op != "output":
            traced.graph.erase_node(pick)
    if isinstance(result, fx.Node):
        if _in_place(node):
            order = {one: place for place, one in enumerate(traced.graph.nodes)}
            changed: Any = node.args[0]
            changed.replace_all_uses_with(result, lambda user: order[user] > order[node])
        node.replace_all_uses_with(result)
        facts.shapes.setdefault(result, facts.shapes.get(node, ()))
        if computes:
            facts.floats.add(result)
    traced.graph.erase_node(node)


def _forget_unused(traced: fx.GraphModule, facts: Facts, own: set[fx.Node]) -> None:
    """Drop what nothing reads any more: the weights' old places among it, and what was written for a fixed mask."""
    for node in reversed(list(traced.graph.nodes)):
        idle = node.op == "get_attr" or node in facts.fixed or node in facts.per_batch or node not in own
        if idle and not node.users:
            traced.graph.erase_node(node)
    used = {str(node.target) for node in traced.graph.nodes if node.op == "get_attr"}
    called = {str(node.target) for node in traced.graph.nodes if node.op == "call_module"}
    traced.delete_all_unused_submodules()
    for path, module in traced.named_modules():
        if any(path == one or path.startswith(f"{one}.") for one in called):
            continue
        values = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        for name, _ in values:
            if f"{path}.{name}".lstrip(".") not in used:
                delattr(module, name)

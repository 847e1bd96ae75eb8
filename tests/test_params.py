from datetime import date

import pytest
from dvc.utils.serialize import modify_yaml
from ruamel.yaml import YAML
from typer.testing import CliRunner

from bitladder.commands.cli import app
from bitladder.errors import UserError
from bitladder.params import load_params
from bitladder.precision import Precision
from support import DELETED, ROOT

BAD = {
    "unknown key": ({"extra": 1}, "extra: unknown key"),
    "unknown key of white space": ({"qat.\n": 3}, "qat.'\\n': unknown key"),
    "unknown key in a block": ({"qat.epoch": 3}, "qat.epoch: unknown key"),
    "a misspelt key that has no default": (
        {"train.epochs": DELETED, "train.epoch": 3},
        "train.epoch: unknown key; is it epochs? See the comments in params.yaml for the keys there are (and 1 more)",
    ),
    "a misspelt block": ({"trian": {}}, "trian: unknown key; is it train? See the comments"),
    "a misspelt key in a rung": (
        {"ladder.tiny.weight_block": 32},
        "ladder.tiny.weight_block: unknown key; is it weights_b",
    ),
    "a misspelt key of mixed": (
        {"ladder.tiny.mixed": {"raise_to": {"weights": 8, "activations": 8}, "max_drops": 0.01}},
        "ladder.tiny.mixed.max_drops: unknown key; is it max_drop?",
    ),
    "neither a word nor a list": (
        {"export.repairs": "of"},
        "export.repairs: input should be 'auto' or 'off', or a valid list, not 'of'",
    ),
    "unknown key in a rung": ({"ladder.tiny.bits": 4}, "ladder.tiny.bits: unknown key"),
    "ssh without a host": ({"target.backend": "ssh"}, "target.host: missing; name the device as ssh takes it"),
    "ssh and several SoCs": (
        {"target.backend": "ssh", "target.host": "board", "target.socs": ["QCS6490"]},
        "target.socs: backend ssh is the one NPU of target.host",
    ),
    "adb and several SoCs": (
        {"target.backend": "adb", "target.socs": ["QCS6490"]},
        "target.socs: backend adb is the one NPU of a phone",
    ),
    "serial that is an option": ({"target.serial": "-H evil"}, "target.serial: give what `adb devices` calls it"),
    "host that is an option": ({"target.host": "-oProxyCommand=x"}, "target.host: give a host as ssh takes it"),
    "python with arguments": ({"target.python": "python3; rm"}, "target.python: give a command or a path"),
    "missing block": ({"target": DELETED}, "target: missing"),
    "missing key": ({"seed": DELETED}, "seed: missing"),
    "missing bits": ({"ladder.tiny.weights": DELETED}, "ladder.tiny.weights: missing"),
    "text for a number": ({"seed": "zero"}, "seed: "),
    "number in quotes": ({"qat.epochs": "3"}, "qat.epochs: "),
    "fraction for a count": ({"train.epochs": 1.5}, "train.epochs: "),
    "boolean for a number": ({"ptq.samples": True}, "ptq.samples: "),
    "negative seed": ({"seed": -1}, "seed: "),
    "no threads": ({"compute.threads": 0}, "compute.threads: "),
    "drop below none": ({"goals.max_drop": -0.1}, "goals.max_drop: "),
    "endless drop": ({"goals.max_drop": float("inf")}, "goals.max_drop: "),
    "always certain": ({"goals.confidence": 1.0}, "goals.confidence: "),
    "maybe": ({"goals.undecided": "maybe"}, "goals.undecided: "),
    "drop in percent": ({"goals.max_drop": "1%"}, "goals.max_drop: "),
    "drop not a number": ({"goals.max_drop": float("nan")}, "goals.max_drop: "),
    "no memory": ({"goals.max_memory_bytes": 0}, "goals.max_memory_bytes: "),
    "infinite limit": ({"target.compile_limit_s": float("inf")}, "target.compile_limit_s: "),
    "learning rate of zero": ({"qat.learning_rate": 0.0}, "qat.learning_rate: "),
    "empty batch": ({"evaluate.batch_size": 0}, "evaluate.batch_size: "),
    "unknown choice": ({"qat.when": "sometimes"}, "qat.when: "),
    "unknown technique": (
        {"ptq.techniques": ["entropy"]},
        "ptq.techniques.0: use one of min-max, sqnr, bias-correction, bn-reestimation, cle, gptq, seq-mse, adaround,"
        " not 'entropy'\n",
    ),
    "techniques in a word": (
        {"ptq.techniques": "all"},
        "ptq.techniques: input should be 'auto', or a valid list, not 'all'\n",
    ),
    "raised to what the SoC does not take": (
        {"ladder.tiny.mixed": {"raise_to": {"weights": 5, "activations": 8}, "max_drop": 0.01}},
        "ladder.tiny: SM8650 does not take W5A8",
    ),
    "raised to the rung's own bits": (
        {"ladder.tiny.mixed": {"raise_to": {"weights": 4, "activations": 8}, "max_drop": 0.01}},
        "ladder.tiny: mixed.raise_to: W4A8 is no more than the rung's own W4A8; give more bits",
    ),
    "raised to fewer bits": (
        {"ladder.balanced.mixed": {"raise_to": {"weights": 4, "activations": 8}, "max_drop": 0.01}},
        "ladder.balanced: mixed.raise_to: W4A8 is no more than the rung's own W8A16; give more bits",
    ),
    "block weights at 8-bit activations": (
        {"ladder.tiny.weights_block": 32},
        "ladder.tiny: weights_block: the NPU takes block weights at W4A16 and W8A16 only, not at W4A8",
    ),
    "block weights of layers raised to 8-bit activations": (
        {
            "ladder.tiny": {
                "weights": 4,
                "activations": 16,
                "after": "compact",
                "weights_block": 32,
                "mixed": {"raise_to": {"weights": 8, "activations": 8}, "max_drop": 0.01},
            }
        },
        "ladder.tiny: weights_block: the NPU takes block weights at W4A16 and W8A16 only, not at W8A8",
    ),
    "block weights on a SoC that takes none": (
        {"ladder.balanced.weights_block": 32, "target.soc": "SM8350"},
        "ladder.balanced.weights_block: SM8350 does not take it",
    ),
    "a block of another size": ({"ladder.balanced.weights_block": 24}, "ladder.balanced.weights_block: "),
    "unknown backend": ({"target.backend": "gpu"}, "target.backend: "),
    "unknown SoC": ({"target.soc": "SM9999"}, "target.soc: 'SM9999' is not a known SoC"),
    "unknown SoC among several": ({"target.socs": ["SM8750", "SM9999"]}, "target.socs.1: 'SM9999' is not a known SoC"),
    "goals of an unknown SoC": ({"goals.per_soc": {"SM9999": {}}}, "goals.per_soc.SM9999: 'SM9999' is not a known"),
    "goals of a SoC that is not measured": (
        {"goals.per_soc": {"QCS6490": {"max_latency_ms": 5}}},
        "goals.per_soc.QCS6490: nothing is measured on it; add it to target.socs",
    ),
    "unknown goal of a SoC": (
        {"target.socs": ["QCS6490"], "goals.per_soc": {"QCS6490": {"max_latency": 5}}},
        "goals.per_soc.QCS6490.max_latency: unknown key",
    ),
    "goals of a SoC by two of its names": (
        {"target.socs": ["QCS6490"], "goals.per_soc": {"QCS6490": {"max_latency_ms": 5}, "rb3-gen-2": {}}},
        "goals: per_soc: QCS6490 and rb3-gen-2 are the same SoC",
    ),
    "a date for the task": ({"task.args": {"since": date(2024, 1, 1)}}, "task: args: Object of type date is not"),
    "no number for the task": ({"task.args": {"scale": float("nan")}}, "task: args: Out of range float values"),
    "several SoCs on one machine": (
        {"target.backend": "snapdragon", "target.socs": ["QCS6490"]},
        "target.socs: backend snapdragon is the one NPU of this machine",
    ),
    "factory without a name": (
        {"task.factory": "bitladder.tasks.builtin.mnist"},
        "task.factory: write package.module:name or path/to/file.py:name, where name is the function that returns the"
        " Task, not 'bitladder.tasks.builtin.mnist'",
    ),
    "factory in a module with a space": ({"task.factory": "my tasks:task"}, "task.factory: write package.module:name"),
    "factory relative to nothing": ({"task.factory": ".tasks:task"}, "task.factory: write package.module:name"),
    "key of a file with a space": (
        {"task.files": {"my code": "task.py"}},
        "task.files.my code: use small letters, digits, _ and -, and begin with a letter: files are named after it, not"
        " 'my code'",
    ),
    "model name that MLflow refuses": (
        {"track.register_as": "team/net"},
        "track.register_as: give a name without / and :, neither blank nor . nor beginning with ..: MLflow takes",
    ),
    "empty ladder": ({"ladder": {}}, "ladder: "),
    "rung that is no mapping": ({"ladder.tiny": 4}, "ladder.tiny: "),
    "bits that AIMET has not": ({"ladder.tiny.weights": 5}, "ladder.tiny: SM8650 does not take W5A8; it takes FP16"),
    "bits the other way round": ({"ladder.tiny.weights": 16}, "ladder.tiny: SM8650 does not take W16A8"),
    "bits that this SoC has not": (
        {"target.soc": "QCS6490", "ladder.balanced.weights": 16},
        "ladder.balanced: QCS6490 does not take W16A16",
    ),
    "rung with a taken name": (
        {"ladder.fp32": {"weights": 8, "activations": 8, "after": "fp16"}},
        "ladder.fp32: the name 'fp32' is taken",
    ),
    "rung name for no file": (
        {"ladder.a/b": {"weights": 8, "activations": 8, "after": "fp16"}},
        "ladder.a/b: use small letters, digits, _ and -, and begin with a letter",
    ),
    "unknown rung above": ({"ladder.tiny.after": "small"}, "ladder.tiny.after: there is no rung 'small'"),
    "rung after itself": ({"ladder.tiny.after": "tiny"}, "ladder.tiny.after: the rungs tiny follow each other"),
    "circle": ({"ladder.balanced.after": "tiny"}, "ladder.balanced.after: the rungs balanced, compact, tiny follow"),
    "override of what is not PTQ's": ({"ladder.tiny.ptq": {"epochs": 3}}, "ladder.tiny.ptq.epochs: unknown key"),
}


def test_several_socs_are_named_once_each_with_what_they_do_not_take(params_with):
    path = params_with({"target.socs": ["s24", "QCS6490", "rb3-gen-2", "s25"], "goals.per_soc": {"RB3 Gen 2": {}}})
    loaded = load_params(path)
    assert [soc.name for soc in loaded.other_socs] == ["QCS6490", "SM8750"]
    assert loaded.goals.own("QCS6490") is not None
    shown = CliRunner().invoke(app, ["check", "--params", str(path)]).stdout
    assert "QCS6490 too, but for what it does not take: fp16 (FP16)" in shown
    assert "SM8750 too\n" in shown


def test_a_further_soc_that_takes_no_block_weights_is_told_of_the_rung(params_with):
    path = params_with({"ladder.balanced.weights_block": 32, "target.socs": ["SM8350", "SM8750"]})
    assert load_params(path).ladder["balanced"].label == "W8A16 blocks of 32"
    said = CliRunner().invoke(app, ["check", "--params", str(path)]).stdout
    assert "SM8350 too, but for what it does not take: balanced (weights_block)\nSM8750 too" in said


def test_a_further_soc_that_takes_no_block_weights_is_told_with_the_rung(params_with):
    path = params_with({"ladder.balanced.weights_block": 32, "target.socs": ["SM8350", "SM8750"]})
    assert load_params(path).ladder["balanced"].label == "W8A16 blocks of 32"
    shown = CliRunner().invoke(app, ["check", "--params", str(path)]).stdout
    assert "SM8350 too, but for what it does not take: balanced (weights_block)\nSM8750 too\n" in shown


def test_a_task_file_that_is_not_there_is_told_of_unless_dvc_brings_it(params_with):
    path = params_with({"task.files.weights": "net.pt"})
    result = CliRunner().invoke(app, ["check", "--params", str(path)])
    assert result.exit_code == 1 and result.stderr.startswith(
        "bitladder: task.files.weights: net.pt: no such file or f"
    )
    (path.parent / "net.pt.dvc").touch()
    assert CliRunner().invoke(app, ["check", "--params", str(path)]).exit_code == 0


@pytest.mark.parametrize(("changes", "message"), BAD.values(), ids=BAD)
def test_bad_params_give_one_line_that_names_the_key(params_with, changes, message):
    result = CliRunner().invoke(app, ["check", "--params", str(params_with(changes))])
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1
    assert f"params.yaml: {message}" in result.stderr


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("nowhere_at_all.tasks:task", "cannot import 'nowhere_at_all.tasks': there is no such module; is its package"),
        ("bitladder.tasks.nowhere:task", "cannot import 'bitladder.tasks.nowhere': there is no such module"),
        ("bitladder.nowhere.at_all:task", "cannot import 'bitladder.nowhere.at_all' (No module named"),
        ("my tasks/net.py:task", "my tasks/net.py: no such file; the path is from the folder that holds params.yaml"),
    ],
)
def test_a_factory_that_is_nowhere_is_refused(params_with, factory, message):
    files = {"code": factory.partition(":")[0]}
    result = CliRunner().invoke(
        app, ["check", "--params", str(params_with({"task.factory": factory, "task.files": files}))]
    )
    assert result.exit_code == 1
    assert result.stderr.startswith(f"bitladder: task.factory: {message}")
    assert len(result.stderr.splitlines()) == 1


def test_a_factory_may_lie_in_a_file_with_a_space(params_with):
    path = params_with({"task.factory": "my tasks/net.py:task", "task.files": {"code": "my tasks/net.py"}})
    (path.parent / "my tasks").mkdir()
    (path.parent / "my tasks/net.py").touch()
    result = CliRunner().invoke(app, ["check", "--params", str(path)])
    assert (result.exit_code, result.stderr) == (0, "")


def test_a_package_of_the_users_is_looked_for_and_not_imported(params_with, tmp_path, monkeypatch):
    (tmp_path / "heavy_package").mkdir()
    (tmp_path / "heavy_package/__init__.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    result = CliRunner().invoke(app, ["check", "--params", str(params_with({"task.factory": "heavy_package.a:task"}))])
    assert (result.exit_code, result.stderr) == (0, "")


@pytest.mark.parametrize(
    "name", ["digits", "a b", "a%b", "a\\b", " a", "..a", "a..", "...", "a/b", "a:b", "/", " ", "", ".", "..", ".a"]
)
def test_model_names_are_those_that_mlflow_takes(params_with, name):
    from mlflow.exceptions import MlflowException
    from mlflow.utils.validation import _validate_model_name

    path = params_with({"track.register_as": name})
    try:
        _validate_model_name(name)
    except MlflowException:
        with pytest.raises(UserError, match=r"track\.register_as: give a name without"):
            load_params(path)
    else:
        assert load_params(path).track.register_as == name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected keys"),
        ("- a\n- b\n", "expected keys"),
        ("seed: [1\n", "not readable as YAML"),
        ("seed: 0\nseed: 1\n", "not readable as YAML"),
        ("\ttask: x\n", "not readable as YAML"),
        (b"\xff\xfe", "not readable as YAML"),
    ],
)
def test_a_damaged_file_is_said_to_be_one(tmp_path, text, message):
    path = tmp_path / "params.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=message) as error:
        load_params(path)
    assert "\n" not in str(error.value)


def test_the_file_stays_readable_through_edits_by_dvc(tmp_path, default_params):
    """DVC edits it with ruamel, which can lose a line end where a value becomes a block and then none again."""
    path = tmp_path / "params.yaml"
    path.write_text((ROOT / "params.yaml").read_text("utf-8"))
    for edit in (
        {"target": {"socs": ["QCS6490"]}, "goals": {"per_soc": {"QCS6490": {"max_latency_ms": 5.0}}}},
        {"target": {"socs": []}, "goals": {"per_soc": {}}, "ptq": {"techniques": ["min-max", "sqnr"]}},
        {"ptq": {"techniques": "auto"}},
    ):
        with modify_yaml(path) as values:
            for block, keys in edit.items():
                values[block].update(keys)
    assert YAML(typ="safe").load(path) == default_params
    load_params(path)


def test_a_missing_file_is_named():
    with pytest.raises(UserError, match=r"nowhere\.yaml: no such file"):
        load_params(ROOT / "nowhere.yaml")


def test_rungs_come_in_the_order_of_their_after_keys(params_with):
    params = load_params(
        params_with(
            {
                "ladder": {
                    "last": {"weights": 4, "activations": 8, "after": "middle"},
                    "middle": {"weights": 8, "activations": 8, "after": "first"},
                    "beside": {"weights": 4, "activations": 16, "after": "first"},
                    "first": {"weights": 8, "activations": 16, "after": "fp16"},
                }
            }
        )
    )
    assert params.rungs() == ("first", "beside", "middle", "last")
    assert params.ladder["last"].precision == Precision(4, 8)
    assert str(params.ladder["last"].precision) == "W4A8"


def test_a_rung_overrides_the_defaults_of_ptq_and_keeps_the_rest(params_with):
    params = load_params(params_with({"ladder.tiny.ptq": {"techniques": ["sqnr"]}}))
    assert params.ptq_of("tiny").techniques == ["sqnr"]
    assert params.ptq_of("tiny").samples == params.ptq.samples
    assert params.ptq_of("compact").techniques == "auto"


def test_yaml_numbers_mean_what_they_mean_to_dvc(tmp_path):
    """`1e-4` is text in YAML 1.1 and a number in 1.2, which DVC reads."""
    text = (ROOT / "params.yaml").read_text("utf-8").replace("learning_rate: 3.0e-4", "learning_rate: 3e-4")
    (tmp_path / "params.yaml").write_text(text)
    assert load_params(tmp_path / "params.yaml").qat.learning_rate == 3e-4

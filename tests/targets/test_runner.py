"""The runner that ships: what a device lacks, and QNN's error codes in words."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from models import two_convs

from bitladder.socs import find_soc
from bitladder.targets import runner
from bitladder.targets.context import compile_model
from bitladder.targets.runner import CODES, Model, check, explain

SAID = {  # as people report them
    "Failed to create context from binary. Error code: 5005": 5005,
    'Could not create context from binary for context index = 0 : err 5000"': 5000,
    "Transport layer setup failed: 14001": 14001,
    "<E> Failed to load skel, error: 4000": 4000,
    "Failed to create device: QNN_DEVICE_ERROR_INVALID_CONFIG: Invalid config values": 14001,
    "QNN_CONTEXT_ERROR_CREATE_FROM_BINARY: Failure to create context from binary": 5005,
    "Op package validation failed 3110": 3110,
    "contextCreateFromBinary failed, err = 0x138d": 5005,
    "QNN_COMMON_ERROR_MEM_ALLOC": 1002,
    "Failed to allocate device memory, err: 1002": 1002,
    "validateOpConfig failed 3110": 3110,
    "Device Creation failure, error 14001": 14001,
}


@pytest.mark.parametrize("said", SAID)
def test_an_error_code_is_told_with_cause_and_remedy(said):
    assert explain(said) == f" (QNN's {SAID[said]}: {CODES[SAID[said]][1]})"


@pytest.mark.parametrize("said", ["", "an input of 5000 samples", "error: 12345", "node 5005 is not there"])
def test_a_number_that_is_no_code_says_nothing(said):
    assert explain(said) == ""


def test_a_device_that_lacks_packages_is_told_which():
    words = [sys.executable, "-S", runner.__file__, "--check", "--json"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    found = {one["check"]: one for one in json.loads(done.stdout)}
    assert found["python"]["state"] == "ok" and found["onnxruntime-qnn"]["state"] == "fail"
    assert found["onnxruntime-qnn"]["remedy"] == "pip install onnxruntime-qnn"


@pytest.mark.slow
def test_a_model_is_loaded_by_the_check(tmp_path):
    soc = find_soc("SM8650")
    compiled = compile_model(two_convs(tmp_path / "model.onnx"), tmp_path / "target", soc, False, 60, tmp_path)
    model = Model(str(compiled.context), False, soc.name, soc.soc_model, soc.arch)
    found = {one["check"]: one for one in check(model)}
    assert found["model"]["state"] == "ok" and found["NPU"]["state"] == "note"
    assert found["QAIRT"]["state"] == "ok" and found["QAIRT"]["found"].count("v2.") == 2
    (binary,) = compiled.context.parent.glob("*.bin")
    Path(binary).write_bytes(b"damaged")
    found = {one["check"]: one for one in check(model)}
    assert found["model"]["state"] == "fail" and found["model"]["found"] and found["model"]["remedy"]

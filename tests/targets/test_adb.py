"""A phone over adb, by stand-ins for adb, the phone and the SDK: outputs come back, and each fault is one line."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from models import samples, settings, two_convs
from phone import SERIAL, make_phone, make_sdk, set_devices

from bitladder.bundle.preflight import look_by_adb
from bitladder.errors import UserError
from bitladder.export.checks import run_unoptimised
from bitladder.network.outputs import StoredOutputs
from bitladder.socs import find_soc
from bitladder.targets import phone, remote
from bitladder.targets.adb import Adb, Session
from bitladder.targets.binary import Tensor, read_tensors
from bitladder.targets.context import compile_model, run
from bitladder.targets.gap import find_gap
from bitladder.targets.on_device import on_device
from bitladder.targets.phone_check import check_phone
from bitladder.targets.profile import profile
from bitladder.targets.runner import Model, explain
from bitladder.targets.target import Job
from bitladder.tasks.task import Metric, Split

SOC = find_soc("SM8650")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compiled")
    return compile_model(two_convs(folder / "model.onnx"), folder / "target", SOC, False, 60, folder)


@pytest.fixture
def there(tmp_path, monkeypatch):
    """Give the folder of the stand-in adb, which sees one phone."""
    folder = make_phone(tmp_path / "adb")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr(phone, "FOLDER", str(tmp_path / "phone"))
    for name in ("QAIRT_SDK_ROOT", "QNN_SDK_ROOT"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture
def sdk(tmp_path_factory, tmp_path):
    return make_sdk(tmp_path / "qairt", tmp_path_factory.getbasetemp())


def target(sdk=None, **changes) -> Adb:
    values = {"backend": "adb", "qairt": sdk and str(sdk), "runs": 3, "warmup": 1, "emulated": 4} | changes
    return Adb(SOC, settings(**values))


def work(tmp_path):
    folder = tmp_path / "work"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.mark.slow
def test_outputs_are_those_of_what_ran_and_the_time_is_of_its_log(there, sdk, tmp_path):
    job = Job(
        two_convs(tmp_path / "model.onnx"), "W8A8", samples(9), tmp_path / "target", tmp_path / "notes", work(tmp_path)
    )
    simulated = StoredOutputs(job.workspace / "simulated")
    simulated.append(run_unoptimised(job.model, job.split))
    simulated.flush()
    mean = Metric("mean", lambda output, _: output.mean().item())
    found, _ = profile(job, mean, (simulated, 0.0), SOC, target(sdk).settings)
    assert found.latency_source == "measured" and 0 < found.latency_ms <= found.latency_p90_ms
    assert "median of 3 runs after 1 to warm up, on the NPU of SM-S921B SM8650" in found.reason
    sides, told = found.side_by_side, found.device
    assert (sides.samples, sides.sqnr_db, sides.agreement) == (4, 200.0, 1.0)  # the phone is the emulator
    assert sides.device == sides.emulator and 25 < sides.device.sqnr_db < 200
    assert sides.simulation != sides.device.value
    assert (told.qairt, told.performance_mode, told.throttling) == ("v2.51.0.260929181845", "burst", "light")
    assert told.celsius_before == told.celsius_after == 41.5  # not what is cached, and no voltage
    assert not list((tmp_path / "phone").iterdir())  # nothing stays on the device
    assert not list(job.workspace.glob("tmp*"))


@pytest.mark.slow
def test_a_phone_that_goes_away_is_taken_up_where_it_was(there, sdk, compiled, tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "CHUNK", 3)
    monkeypatch.setattr(remote, "WAIT_S", 0)
    flush, flushed = StoredOutputs.flush, []

    def unplugging(kept):
        flush(kept)
        flushed.append(len(kept))
        if len(flushed) == 1:
            set_devices(there, {})
            monkeypatch.setattr(remote.time, "sleep", lambda _: set_devices(there, {SERIAL: "device"}))

    monkeypatch.setattr(StoredOutputs, "flush", unplugging)
    found = target(sdk).run(compiled, False, samples(7), work(tmp_path))
    assert flushed == [3, 6, 7]
    (tmp_path / "here").mkdir()
    expected = run(compiled, SOC, False, samples(7), settings(), tmp_path / "here")
    assert all(np.array_equal(values, found.whole()[name]) for name, values in expected.items())


@pytest.mark.slow
def test_two_runs_at_once_do_not_meet(there, sdk, compiled, tmp_path):
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
    with ThreadPoolExecutor() as pool:
        one, two = pool.map(lambda folder: target(sdk).run(compiled, False, samples(3), folder).whole(), folders)
    assert all(np.array_equal(values, two[name]) for name, values in one.items())


@pytest.mark.parametrize(
    ("devices", "changes", "message"),
    [
        ({}, {}, "target.backend: adb sees no device: connect one, and allow USB debugging"),
        ({"A1": "device", "B2": "device"}, {}, r"target\.serial: adb sees A1, B2; name one of them"),
        ({"A1": "device"}, {"serial": "B2"}, r"target\.serial: adb sees no B2; it sees A1"),
        ({"A1": "unauthorized"}, {}, "A1 is unauthorized; unlock it, and allow this computer to debug it"),
        ({"A1": "offline"}, {}, "A1 is offline; plug it in again"),
        ({"A1": "no permissions (are your udev rules wrong?)"}, {}, "A1 is no permissions .*; .* add a udev rule"),
        ({"A1": "recovery"}, {}, "A1 is recovery; boot it into Android"),
    ],
)
def test_a_phone_that_is_not_ready_is_one_line(there, sdk, devices, changes, message):
    set_devices(there, devices)
    with pytest.raises(UserError, match=f"^[^\n]*{message}[^\n]*$"):
        target(sdk, **changes).check()


def test_one_of_two_phones_is_named(there, sdk):
    set_devices(there, {"A1": "device", "B2": "device"})
    target(sdk, serial="B2").check()


def test_a_machine_without_adb_is_told_what_to_install(sdk, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="needs Android's adb on this machine: install"):
        target(sdk).check()


@pytest.mark.parametrize(
    ("lacking", "message"),
    [
        (None, "adb needs Qualcomm's QAIRT SDK, .* name it in target.qairt or in QAIRT_SDK_ROOT"),
        ("", "target.qairt: .*qairt: no such folder"),
        ("bin/aarch64-android/qnn-net-run", "has no bin/aarch64-android/qnn-net-run; is it a whole SDK"),
        (
            "lib/hexagon-v75/unsigned/libQnnHtpV75Skel.so",
            "has no lib/hexagon-v75/.*Skel.so; is it a whole SDK, and of v75",
        ),
    ],
)
def test_what_lacks_of_the_sdk_is_named(there, sdk, lacking, message):
    if lacking:
        (sdk / lacking).unlink()
    elif lacking == "":
        shutil.rmtree(sdk)
    with pytest.raises(UserError, match=message):
        target(sdk if lacking is not None else None).check()


def test_the_sdk_that_the_environment_names_is_taken(there, sdk, monkeypatch):
    monkeypatch.setenv("QNN_SDK_ROOT", str(sdk))
    target().check()


def test_an_sdk_that_is_older_than_the_compiler_is_refused(there, compiled, tmp_path):
    old = make_sdk(tmp_path / "old", tmp_path, "v2.40.0.251030114326")
    with pytest.raises(UserError, match=r"is QAIRT v2\.40\.0\.\d+, and v2\.\d+\.0\.\d+ compiled the model"):
        target(old).run(compiled, False, samples(1), work(tmp_path))


@pytest.mark.parametrize(
    "said",
    [
        "[ERROR] Could not create context from binary, err: 5000",
        "[ERROR] Failed to create context from binary. Error code: 5005",
        "[ERROR] Transport layer setup failed: 14001",
        "[ERROR] Op package validation failed 3110",
        "[ERROR] QNN_COMMON_ERROR_MEM_ALLOC",
    ],
)
def test_an_error_of_qnn_net_run_is_told_with_cause_and_remedy(there, sdk, compiled, tmp_path, said):
    (sdk / "broken").write_text(said)
    with pytest.raises(UserError) as refused:
        target(sdk).run(compiled, False, samples(1), work(tmp_path))
    assert str(refused.value) == f"target.backend: adb: {SERIAL}: {said}{explain(said)}" and "QNN's" in explain(said)


def test_a_full_storage_is_one_line(there, sdk, compiled, tmp_path, small_disk, monkeypatch):
    monkeypatch.setattr(phone, "FOLDER", str(small_disk("16k")))
    with pytest.raises(UserError, match=rf"{SERIAL}: .*No space left on device; make room on its storage$"):
        target(sdk).run(compiled, False, samples(1), work(tmp_path))


def test_outputs_of_another_size_are_refused(there, sdk, compiled, tmp_path):
    """They are cut where the graph says, so that one byte too few would shift all that follows."""
    (sdk / "bin/aarch64-android/qnn-net-run").write_text(
        "#!/bin/sh\nmkdir -p out/Result_0; printf 123 > out/Result_0/output.raw\n"
    )
    with pytest.raises(UserError, match="3 bytes came back, of 1 samples of 16 each"):
        target(sdk).run(compiled, False, samples(1), work(tmp_path))


def test_an_output_that_was_not_written_is_named(there, sdk, compiled, tmp_path):
    (sdk / "bin/aarch64-android/qnn-net-run").write_text("#!/bin/sh\nmkdir -p out/Result_0\n")
    with pytest.raises(UserError, match=r"cat: .*out/Result_0/output\.raw.*: No such file or directory$"):
        target(sdk).run(compiled, False, samples(1), work(tmp_path))


def test_a_name_from_the_device_cannot_leave_the_folder(there, sdk, compiled, tmp_path):
    """Only what bitladder names is fetched, to where it says."""
    (sdk / "bin/aarch64-android/qnn-net-run").write_text(
        "#!/bin/sh\nmkdir -p out/Result_0 && cd out/Result_0 && printf 0123456789abcdef > output.raw\n"
        "ln -s ../../../stolen.raw ../evil.raw && printf x > ..-..-escaped.raw\n"
    )
    found = target(sdk).run(compiled, False, samples(1), work(tmp_path))
    assert found.whole()["output"].numpy().tobytes() == b"0123456789abcdef"
    assert not [path for path in tmp_path.rglob("*") if "escaped" in path.name or "evil" in path.name]


def test_a_sample_of_another_type_is_named(there, sdk, compiled, tmp_path):
    wrong = Split({"x": samples(1).inputs["x"].double()}, samples(1).targets)
    with pytest.raises(UserError, match=r"x takes float32 \(1, 4, 6, 6\), and a sample has float64 \(1, 4, 6, 6\)"):
        target(sdk).run(compiled, False, wrong, work(tmp_path))


def test_outputs_of_several_types_are_taken_apart(tmp_path):
    gives = [Tensor("a", (1, 2), np.dtype(np.float16)), Tensor("b", (1, 3), np.dtype(np.uint8))]
    a, b = np.arange(4, dtype=np.float16).reshape(2, 2), np.arange(6, dtype=np.uint8).reshape(2, 3)
    path = tmp_path / "outputs.raw"
    path.write_bytes(b"".join(one[i].tobytes() for i in range(2) for one in (a, b)))
    found = Session(phone.Phone("A1"), None, "", tmp_path, tmp_path, 1.0)._read(gives, path, 2)
    assert np.array_equal(found["a"], a) and np.array_equal(found["b"], b)


@pytest.mark.parametrize("damage", ["no viewer", "fewer"])
@pytest.mark.slow
def test_a_log_that_cannot_be_read_leaves_the_latency_out_and_says_why(there, sdk, compiled, tmp_path, damage):
    viewer = sdk / "bin/x86_64-linux-clang/qnn-profile-viewer"
    if damage == "no viewer":
        viewer.unlink()
    else:
        viewer.write_text(viewer.read_text().replace("enumerate(json", "enumerate([7] or json"))
    asked = replace(target(sdk), settings=target(sdk).settings)
    with asked.installed(compiled, False, work(tmp_path)) as connect, connect() as session:
        times, told = session.time(samples(1).row(0), 1, 3)
    assert times == [] and told.runs is None
    why = "qnn-profile-viewer: No such file" if damage == "no viewer" else "tells of 1 inferences, and 4 ran"
    assert why in told.untold


@pytest.mark.slow
def test_preflight_runs_the_model_once(there, sdk, compiled):
    (binary,) = compiled.context.parent.glob("*.bin")
    model = Model(compiled.context.name, False, SOC.name, SOC.soc_model, SOC.arch)
    found = {one["check"]: one for one in check_phone(None, str(sdk), model, binary)}
    assert found["model"]["state"] == found["version"]["state"] == found["SoC"]["state"] == "ok"
    (sdk / "broken").write_text("err: 5005")
    found = {one["check"]: one for one in check_phone(None, str(sdk), model, binary)}
    assert found["model"]["state"] == "fail" and "QNN's 5005" in found["model"]["found"]


def test_preflight_of_no_phone_and_no_sdk_says_so(there, sdk):
    assert [one["state"] for one in look_by_adb(None, None, None, None)] == ["ok", "fail"]
    set_devices(there, {})
    (found,) = look_by_adb(None, None, str(sdk), None)
    assert found["found"].startswith("target.backend: adb sees no device")


def test_what_a_context_binary_takes_and_gives_is_read_from_it(compiled):
    (binary,) = compiled.context.parent.glob("*.bin")
    floats = np.dtype(np.float32)
    assert read_tensors(binary) == ([Tensor("x", (1, 4, 6, 6), floats)], [Tensor("output", (1, 4), floats)])


@pytest.mark.slow
def test_intermediate_outputs_are_asked_of_the_phone(there, sdk, tmp_path):
    model = two_convs(tmp_path / "model.onnx", full_range_bias=True, bits=16)
    for name in ("here", "phone's"):
        (tmp_path / name).mkdir()
    here = find_gap(model, samples(2), SOC, settings(), tmp_path / "here")
    found = find_gap(model, samples(2), SOC, settings(), tmp_path / "phone's", on_device(SOC, target(sdk).settings))
    assert here == found and [layer.layer for layer in found] == ["first", "second"]


@pytest.mark.parametrize(
    ("backend", "message"),
    [("hexagon-emulator", "is no device; set ssh, adb"), ("ai-hub", "compiles its own graph")],
)
def test_a_backend_that_hands_out_no_intermediate_outputs_says_why(backend, message):
    with pytest.raises(UserError, match=f"^target.backend: {backend} {message}"):
        on_device(SOC, settings(backend=backend))

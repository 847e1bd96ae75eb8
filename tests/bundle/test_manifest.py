"""What happens to a bundle on its way: any changed byte is found and named; what a stranger made harms nothing."""

import io
import json
import os
import tarfile
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from bitladder.bundle.arrays import load_arrays, save_arrays
from bitladder.bundle.graphs import graph_problems
from bitladder.bundle.manifest import MANIFEST, SEAL, _seal, _text, changed_files, read_manifest, write_manifest
from bitladder.bundle.verify import opened, verify
from bitladder.errors import UserError

EMPTY = {
    "rung": None, "reason": "no rung meets the goals", "precision": None, "technique": None, "socs": {},
    "recorded": None, "metrics": {}, "sources": {}, "params": {"seed": 0}, "task": {}, "data": {}, "versions": {},
}  # fmt: skip


@pytest.fixture
def bundle(tmp_path):
    folder = tmp_path / "deploy"
    (folder / "SM8650").mkdir(parents=True)
    (folder / "SM8650/model_ctx_qnn.bin").write_bytes(bytes(range(256)))
    (folder / "README.md").write_text("# tiny\n")
    write_manifest(folder, EMPTY)
    return folder


def test_an_untouched_bundle_is_found_so(bundle):
    manifest = read_manifest(bundle)
    assert set(manifest.files) == {"README.md", "SM8650/model_ctx_qnn.bin"}
    assert changed_files(bundle, manifest) == []


def test_every_flipped_bit_of_a_manifest_is_found(bundle):
    path = bundle / MANIFEST
    content = path.read_bytes()
    for index in range(len(content)):
        for bit in (0, 5):
            path.write_bytes(content[:index] + bytes([content[index] ^ (1 << bit)]) + content[index + 1 :])
            with pytest.raises(UserError, match=r"manifest\.json: "):
                read_manifest(bundle)


def test_changed_missing_added_and_linked_files_are_named(bundle, tmp_path):
    manifest = read_manifest(bundle)
    binary = bundle / "SM8650/model_ctx_qnn.bin"
    binary.write_bytes(b"\x01" + binary.read_bytes()[1:])
    (bundle / "README.md").unlink()
    (bundle / "README.md").symlink_to(binary)
    (bundle / "more.txt").write_text("")
    found = changed_files(bundle, manifest)
    assert found == [
        "README.md: is no plain file",
        "SM8650/model_ctx_qnn.bin: changed; its SHA-256 is not the manifest's",
        "more.txt: is not in the manifest",
    ]
    binary.unlink()
    assert "SM8650/model_ctx_qnn.bin: missing" in changed_files(bundle, manifest)


@pytest.mark.parametrize(
    "name", ["../outside", "/etc/passwd", "a/../../b", "C:/x", "a\\b", "./a", "", "a" * 300, "é" * 200]
)
def test_a_sealed_manifest_that_names_files_outside_is_refused(bundle, name):
    content = json.loads((bundle / MANIFEST).read_text())
    content["files"][name] = {"sha256": "0" * 64, "bytes": 1}
    content.pop(SEAL)
    content[SEAL] = _seal(content)
    (bundle / MANIFEST).write_text(_text(content))
    with pytest.raises(UserError, match="not a manifest that this bitladder reads"):
        read_manifest(bundle)


def _packed(path, name, **more):
    with tarfile.open(path, "w:") as archive:
        entry = tarfile.TarInfo(name)
        entry.size = 0 if more else 1
        for key, value in more.items():
            setattr(entry, key, value)
        archive.addfile(entry, io.BytesIO(b"x"))


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("../outside", {}),
        ("/tmp/outside-of-the-bundle", {}),
        ("deploy/link", {"type": tarfile.SYMTYPE, "linkname": "/etc"}),
        ("deploy/device", {"type": tarfile.CHRTYPE}),
    ],
)
def test_an_archive_that_writes_outside_is_refused(tmp_path, name, more):
    _packed(tmp_path / "ship.tar", name, **more)
    with (
        pytest.raises(UserError, match=r"ship\.tar: not an archive|provenance\.json: missing"),
        opened(tmp_path / "ship.tar"),
    ):
        pass
    assert not (tmp_path / "outside").exists()


def test_arrays_are_the_same_bytes_each_time_and_pickles_are_not_loaded(tmp_path):
    arrays = {"file": np.arange(3.0), "b": np.zeros((2, 0), np.int64)}
    save_arrays(tmp_path / "a.npz", arrays)
    save_arrays(tmp_path / "b.npz", arrays)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    loaded = load_arrays(tmp_path / "a.npz")
    assert list(loaded) == ["file", "b"] and loaded["b"].shape == (2, 0)
    np.savez(tmp_path / "evil.npz", x=np.array([object()]))
    with pytest.raises(UserError, match=r"evil\.npz: damaged"):
        load_arrays(tmp_path / "evil.npz")


def _recording(folder, samples, targets):
    """Write a sealed bundle of one SoC whose recorded samples and targets are these."""
    chip = {"soc_model": 57, "arch": "v75", "qairt": None, "context": "c.onnx", "answers": "answers.npz", "value": 1.0}
    recorded = {"file": "samples.npz", "targets": "targets.npz", "samples": 2, "metric": "accuracy"}
    np.savez(folder / "samples.npz", **samples)
    np.savez(folder / "targets.npz", **targets)
    save_arrays(folder / "answers.npz", {"output": np.zeros((2, 3), np.float32)})
    soc = {"SM8650": {**chip, "reason": None}}
    write_manifest(folder, {**EMPTY, "rung": "tiny", "precision": "W4A8", "socs": soc, "recorded": recorded})


GOOD = np.zeros((2, 4), np.float32)


@pytest.mark.parametrize(
    ("samples", "targets", "message"),
    [
        ({"x": np.float32(1)}, {"targets": np.zeros(2)}, r"samples\.npz: damaged \('x' is a single number\)"),
        ({"x": np.array(["a", "b"])}, {"targets": np.zeros(2)}, r"damaged \('x' is of <U1, which no network takes\)"),
        ({"x": GOOD}, {"labels": np.zeros(2)}, r"targets\.npz: has no array 'targets'"),
        ({"x": GOOD}, {"targets": np.zeros(3)}, r"samples\.npz: holds other samples than the manifest says"),
    ],
)
def test_recorded_samples_that_are_none_are_one_line(tmp_path, samples, targets, message):
    _recording(tmp_path, samples, targets)
    with pytest.raises(UserError, match=message):
        verify(tmp_path, None, 60)


def test_a_damaged_graph_is_named(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"\xff" * 100)
    _recording(tmp_path, {"x": GOOD}, {"targets": np.zeros(2)})
    _, bad = verify(tmp_path, None, 60)
    assert len(bad) == 1 and bad[0].startswith("model.onnx: not a sound ONNX file (")


def test_a_graph_that_keeps_its_reader_busy_is_given_up(tmp_path):
    os.mkfifo(tmp_path / "model.onnx")  # nobody writes into it, so that who reads it waits for ever
    assert graph_problems(tmp_path, ["model.onnx"], 1) == [
        "model.onnx: not a sound ONNX file (reading it takes longer than 1 s)"
    ]


def test_a_graph_may_name_files_of_its_bundle_and_no_others(tmp_path):
    bundle = tmp_path / "deploy"
    bundle.mkdir()
    for path in (tmp_path / "outside.bin", bundle / "inside.bin"):
        path.write_bytes(bytes(4))
    named = {"good": "inside.bin", "above": "../outside.bin", "root": "/etc/passwd", "none": "missing.bin"}
    for name, location in named.items():
        weight = helper.make_tensor("w", TensorProto.FLOAT, [1], [0.0])
        weight.ClearField("float_data")
        weight.data_location = TensorProto.EXTERNAL
        weight.external_data.add(key="location", value=location)
        y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
        graph = helper.make_graph([helper.make_node("Identity", ["w"], ["y"])], "g", [], [y], [weight])
        (bundle / f"{name}.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    assert graph_problems(bundle, [f"{name}.onnx" for name in named], 60) == [
        f"{name}.onnx: names a file that is not in the bundle: {named[name]!r}" for name in ("above", "root", "none")
    ]


def test_a_member_that_is_no_array_is_one_line(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x", "text")
    with pytest.raises(UserError, match=r"a\.npz: damaged \('x' is no array\)"):
        load_arrays(tmp_path / "a.npz")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=20), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.fuzz
@given(content=JSON | st.dictionaries(st.sampled_from([*EMPTY, "files", "format", SEAL]), JSON), seal=st.booleans())
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_a_manifest_holds_it_is_read_or_refused(tmp_path, content, seal):
    """Sealed or not, so that what lies behind the seal is tried too; benchmarks/fuzz.py runs 10,000 of them."""
    if seal and isinstance(content, dict):
        content.pop(SEAL, None)
        try:
            content[SEAL] = _seal(content)
            text = _text(content)
        except ValueError:  # NaN
            text = json.dumps(content)
    else:
        text = json.dumps(content)
    (tmp_path / MANIFEST).write_text(text, "utf-8", "surrogatepass")
    try:
        read_manifest(tmp_path)
    except UserError as error:
        assert "\n" not in str(error)


@pytest.mark.fuzz
@given(content=st.binary(max_size=300))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_bytes_a_manifest_is_made_of_it_is_refused(tmp_path, content):
    (tmp_path / MANIFEST).write_bytes(content)
    with pytest.raises(UserError):
        read_manifest(tmp_path)

"""What ships of the shared clone, and how its results go from machine to machine."""

import hashlib
import json
import re
import subprocess

import pytest

from clones import PLANTED, Clone

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def committed(clone, tmp_path_factory):
    """The shared clone as a commit, its results pushed to a remote that is a plain folder."""
    clone.run("git", "add", "--all")
    done = clone.run("git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "--message", "made")
    assert done.returncode == 0, done.stderr
    remote = tmp_path_factory.mktemp("remote")
    for words in ("dvc", "remote", "add", "--local", "--default", "store", str(remote)), ("bitladder", "push"):
        done = clone.run(*words)
        assert done.returncode == 0, done.stderr
    return clone, remote


def copy_of(committed, root) -> Clone:
    clone, remote = committed
    subprocess.run(["git", "clone", "--quiet", str(clone.root), str(root)], check=True)
    other = Clone(root)
    other.run("dvc", "remote", "add", "--local", "--default", "store", str(remote))
    return other


def test_a_bundle_is_verified_and_a_changed_byte_is_named_and_healed(clone):
    done = clone.run("bitladder", "verify", "deploy")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "gives the recorded outputs, bit for bit, on" in done.stdout and "repeated" in done.stdout
    assert clone.run("python", "deploy/runner.py").returncode == 0
    looked = clone.run("bitladder", "preflight", "deploy")
    assert looked.returncode == 0 and "ok   model            loads, all of it on the NPU" in looked.stdout
    binary = clone.root / "deploy/SM8650/model_ctx_qnn.bin"
    content = bytearray(binary.read_bytes())
    content[len(content) // 2] ^= 1
    binary.write_bytes(content)
    done = clone.run("bitladder", "verify", "deploy")
    assert done.returncode == 1 and "BAD:  SM8650/model_ctx_qnn.bin: changed" in done.stdout
    assert clone.repro("bundle").code == 0
    assert binary.read_bytes() != bytes(content)


def test_a_damaged_cache_object_is_refused_by_what_reads_it_and_healed(clone):
    model = clone.root / "build/export/tiny/model.onnx"
    good = model.read_bytes()
    digest = hashlib.md5(good, usedforsecurity=False).hexdigest()
    cached = clone.root / ".dvc/cache/files/md5" / digest[:2] / digest[2:]
    cached.chmod(0o644)
    cached.write_bytes(good[:1000] + bytes([good[1000] ^ 1]) + good[1001:])
    cached.chmod(0o444)  # DVC takes a file that is read-only as unchanged
    model.unlink()
    clone.run("dvc", "checkout", str(model))
    assert model.read_bytes() != good
    done = clone.run("python", "stages/profile.py", "tiny")
    assert done.returncode == 1
    assert "profile@tiny: build/export/tiny/model.onnx: is not what dvc.lock says; run `bitladder heal`" in done.stderr
    healed = clone.run("bitladder", "heal").stdout
    assert f"its cache object {digest} is damaged; removed" in healed
    assert clone.repro("export@tiny").ran == {"export@tiny"}
    assert model.read_bytes() == good
    assert "nothing is damaged" in clone.run("bitladder", "heal").stdout


def test_the_bundle_says_what_it_is(clone):
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    manifest = json.loads((clone.root / "deploy/manifest.json").read_text())
    assert (manifest["rung"], manifest["precision"]) == ("tiny", "W4A8")
    target = json.loads((clone.root / "metrics/target/tiny.json").read_text())
    assert manifest["metrics"]["metrics/target/tiny.json"] == target
    assert manifest["versions"]["onnxruntime-qnn"] and manifest["socs"]["SM8650"]["qairt"].startswith("v2.")
    bill = (clone.root / "deploy/sbom.cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(bill) is None
    parts = {part["name"]: part for part in json.loads(bill)["components"]}
    assert parts["onnxruntime-qnn"]["scope"] == "required" and parts["aimet-torch"]["scope"] == "excluded"
    assert parts["SM8650/model_ctx_qnn.bin"]["type"] == "machine-learning-model"
    assert "serialNumber" not in json.loads(bill)


def test_no_secret_is_in_any_file_that_the_pipeline_wrote(clone):
    written = [path for path in clone.root.rglob("*") if path.is_file() and ".git" not in path.parts]
    assert any(path.name == "mlflow.db" for path in written) and any("deploy" in path.parts for path in written)
    tests = {clone.root / "tests/clones.py"}
    assert not [path for path in written if path not in tests and PLANTED.encode() in path.read_bytes()]


def test_a_fresh_clone_pulls_from_a_folder_and_runs_nothing(committed, tmp_path):
    other = copy_of(committed, tmp_path / "other")
    done = other.run("dvc", "pull")
    assert done.returncode == 0, done.stderr
    done = other.repro()
    assert (done.code, done.ran) == (0, {"sources"}), done.text[-2000:]  # which looks at what is installed here
    packed = other.run("bitladder", "ship", "--output", "ship.tar")
    assert packed.returncode == 0, packed.stderr
    assert other.run("bitladder", "verify", "ship.tar").returncode == 0


def test_a_ci_job_notices_edited_code_though_it_pulls(committed, tmp_path):
    job = copy_of(committed, tmp_path / "job")
    page = job.root / "src/bitladder/report/page.py"
    page.write_text(page.read_text("utf-8") + "\n# edited\n", "utf-8")
    done = job.run("bash", "ci/pull-request.sh", "HEAD")
    assert done.returncode == 0, done.stderr
    assert set(re.findall("(?m)^Running stage '(.+)'", done.stdout)) == {"sources", "report"}


def test_rungs_run_in_two_clones_meet_in_a_third(committed, tmp_path):
    samples = {"target.samples": 15}
    for rung in ("compact", "tiny"):
        worker = copy_of(committed, tmp_path / rung)
        worker.run("dvc", "pull")
        worker.edit(samples)
        done = worker.repro(f"profile@{rung}")
        assert f"profile@{rung}" in done.ran, done.text[-2000:]
        assert worker.run("bitladder", "push").returncode == 0
    third = copy_of(committed, tmp_path / "third")
    third.edit(samples)
    third.run("dvc", "pull", "--run-cache")
    done = third.repro("--pull", "compare")
    assert done.code == 0, done.text[-2000:]
    assert not done.ran & {"profile@compact", "profile@tiny"}
    for rung in ("compact", "tiny"):
        record = json.loads((third.root / f"metrics/target/{rung}.json").read_text())
        # of the emulator: where the model of its integers is proved, all other samples are that one's
        assert (record["exact"].get("emulated") or record)["samples"] == 15


def test_a_rung_that_is_dropped_leaves_nothing_that_a_fresh_clone_has_not(committed, tmp_path):
    first = copy_of(committed, tmp_path / "first")
    first.run("dvc", "pull")
    first.edit({"ladder": {"compact": {"weights": 8, "activations": 8, "after": "fp16"}}})
    done = first.repro()
    assert (done.code, done.ran) == (0, {"sources", "compare", "bundle", "report", "track"}), done.text[-2000:]
    assert not [path for path in first.root.rglob("tiny*") if not {".dvc", "benchmarks"} & {*path.parts}]
    assert (first.root / "build/export/compact/model.onnx").exists() and first.run("bitladder", "push").returncode == 0
    first.run("git", "add", "--all")
    first.run("git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "--message", "dropped")
    second = copy_of((first, committed[1]), tmp_path / "second")
    assert second.run("dvc", "pull").returncode == 0
    assert second.repro().ran == {"sources"}

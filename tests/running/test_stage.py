"""What a stage says when the disk is full, on a disk that is."""

import subprocess

import pytest

from bitladder.running.explain import is_full_disk
from bitladder.running.files import copy_file, save_tensors, write_json
from bitladder.running.resume import save_state


@pytest.fixture
def full_disk(tmp_path):
    """Give a disk of 16 kB. Skip where this process may not mount one."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", path], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    yield path
    subprocess.run(["umount", path], check=True)


def test_every_way_of_writing_is_known_to_meet_a_full_disk_and_leaves_no_half_file(full_disk, tmp_path):
    import torch

    (tmp_path / "big").write_bytes(bytes(100_000))
    writers = {
        "json": lambda path: write_json(path, {"text": "x" * 100_000}),
        "safetensors": lambda path: save_tensors(path, {"a": torch.zeros(100_000)}),
        "state": lambda path: save_state(path, {"a": torch.zeros(100_000)}),
        "copy": lambda path: copy_file(tmp_path / "big", path),
    }
    for name, write in writers.items():
        with pytest.raises(Exception) as error:
            write(full_disk / name)
        assert is_full_disk(error.value), f"{name}: {error.value!r}"
        assert list(full_disk.iterdir()) == [], name


def test_other_errors_are_none_of_a_full_disk():
    assert not is_full_disk(ValueError("space"))
    try:
        try:
            raise OSError(28, "No space left on device")
        except OSError as error:
            raise RuntimeError("export failed") from error
    except RuntimeError as error:
        assert is_full_disk(error)

"""Pushing results: what is said where there is nowhere to push to. Pushes are in tests/pipeline/test_ship.py."""

import subprocess

import pytest

from bitladder.commands.push import push
from bitladder.errors import UserError


def test_a_folder_without_dvc_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"no DVC repository here; run it in the folder that has dvc\.yaml"):
        push()


def test_a_missing_remote_is_named_with_what_to_type(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    subprocess.run(["dvc", "init", "--no-scm", "--quiet"], check=True)
    with pytest.raises(UserError, match="`dvc remote add --default NAME URL`"):
        push()
    with pytest.raises(UserError, match=r"'elsewhere'.* doesn't exist"):
        push("elsewhere")

"""The clone that the pipeline tests share."""

import pytest

from clones import Clone, make_clone


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """The clone that the tests share, run once from nothing."""
    made = make_clone(tmp_path_factory.mktemp("clone"))
    done = made.repro()
    assert done.code == 0, done.text[-3000:]
    return made

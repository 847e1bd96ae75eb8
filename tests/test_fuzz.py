"""Whatever a params.yaml holds, it is read or refused in one line. `python benchmarks/fuzz.py` runs 10,000 of each."""

import copy
import io

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from bitladder.errors import UserError
from bitladder.params import load_params
from support import ROOT

DEFAULT = YAML(typ="safe").load((ROOT / "params.yaml").read_text("utf-8"))
LINES = (ROOT / "params.yaml").read_text("utf-8").splitlines()

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30) | st.dates(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10) | st.integers(), inner, max_size=3)
    ),
    max_leaves=8,
)


def paths(block, above=()):
    for key, value in block.items():
        yield (*above, key)
        if isinstance(value, dict):
            yield from paths(value, (*above, key))


def check(path):
    try:
        load_params(path)
    except UserError as error:
        assert "\n" not in str(error)


FUZZ = settings(deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.fuzz
@given(key=st.sampled_from(list(paths(DEFAULT))), value=VALUES)
@FUZZ
def test_a_value_of_any_kind_under_any_key(tmp_path, key, value):
    content = copy.deepcopy(DEFAULT)
    block = content
    for part in key[:-1]:
        block = block[part]
    block[key[-1]] = value
    text = io.StringIO()
    try:
        YAML(typ="safe").dump(content, text)
    except Exception:  # YAML itself cannot say it
        return
    (tmp_path / "params.yaml").write_text(text.getvalue(), "utf-8", "surrogatepass")
    check(tmp_path / "params.yaml")


PIECES = (
    "&a [*a]",
    "<<: *x",
    "!!python/object/apply:os.system [id]",
    "? [a, b]",
    "- -",
    "{{{{",
    "a: &b {c: *b}",
    "---",
)


@pytest.mark.fuzz
@given(start=st.integers(0, len(LINES)), length=st.integers(0, 6), put=st.text(max_size=40) | st.sampled_from(PIECES))
@FUZZ
def test_lines_cut_out_and_others_put_in(tmp_path, start, length, put):
    text = "\n".join([*LINES[:start], put, *LINES[start + length :]])
    (tmp_path / "params.yaml").write_text(text, "utf-8", "surrogatepass")
    check(tmp_path / "params.yaml")


@pytest.mark.fuzz
@given(content=st.binary(max_size=200))
@FUZZ
def test_bytes(tmp_path, content):
    (tmp_path / "params.yaml").write_bytes(content)
    check(tmp_path / "params.yaml")

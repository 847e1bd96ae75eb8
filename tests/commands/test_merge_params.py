"""params.yaml brought to another version's keys."""

import pytest

from bitladder.commands.merge_params import merge_params
from bitladder.errors import UserError

BASE = """# All numbers.

seed: 0        # of all
train:         # FP32
  epochs: 30   # rounds
  size: 64

goals:         # what must hold
  drop: 0.005  # points

track:
  name: x
"""

NEW = """# All numbers.

seed: 0        # of all
train:         # FP32
  epochs: 30   # passes over the data
  # The next one is new:
  patience: 3  # epochs
  size: 64

compute: {threads: 2}   # new

goals:         # what must hold
  drop: 0.005  # points
  sure: 0.95   # confidence

track:
  name: x
"""


def test_a_file_that_was_not_changed_becomes_the_new_one():
    assert merge_params(BASE, BASE, NEW, {}, {}) == NEW


def test_values_and_comments_of_the_user_stay():
    own = BASE.replace("epochs: 30   # rounds", "epochs: 7    # ours: it is enough").replace(
        "drop: 0.005", "drop: 0.1  "
    )
    own += "\n# Remarks at the end\n"
    merged = merge_params(own, BASE, NEW, {}, {})
    expected = NEW.replace("epochs: 30   # passes over the data", "epochs: 7    # ours: it is enough")
    assert merged == expected.replace("drop: 0.005", "drop: 0.1  ") + "\n# Remarks at the end\n"


def test_a_new_key_goes_within_braces_where_its_block_is_written_so():
    own = BASE.replace("goals:         # what must hold\n  drop: 0.005  # points\n", "goals: {drop: 0.1}   # short\n")
    assert "goals: {drop: 0.1, sure: 0.95}   # short\n" in merge_params(own, BASE, NEW, {}, {})


@pytest.mark.parametrize(
    ("renamed", "line"),
    [("goals.limit", "  limit: 0.3  # points\n"), ("train.limit", "  limit: 0.3  # points\n")],
)
def test_a_renamed_key_keeps_its_value(renamed, line):
    new = NEW.replace("  drop: 0.005  # points\n", "")
    block = "  size: 64\n" if renamed.startswith("train") else "  sure: 0.95   # confidence\n"
    new = new.replace(block, f"{block}  limit: 0.005  # points\n")
    merged = merge_params(BASE.replace("drop: 0.005", "drop: 0.3"), BASE, new, {"goals.drop": renamed}, {})
    assert line in merged and "drop" not in merged
    assert (merged.index("limit") < merged.index("goals:")) == renamed.startswith("train")


def test_a_key_that_is_no_more_goes_unless_the_user_has_set_it():
    new = NEW.replace("  size: 64\n", "")
    assert merge_params(BASE, BASE, new, {}, {}) == new
    with pytest.raises(UserError, match=r"^params\.yaml: train\.size: there is no such key any more, and yours is 32;"):
        merge_params(BASE.replace("64", "32"), BASE, new, {}, {})


def test_a_name_of_bitladders_own_is_translated_and_no_other_text():
    own = BASE.replace("name: x", "name: old.name:task   # not old.name:task here")
    assert "name: new.name:task   # not old.name:task here" in merge_params(
        own, BASE, NEW, {}, {"old.name:task": "new.name:task"}
    )


def test_what_is_no_yaml_is_refused_in_a_line():
    with pytest.raises(UserError, match=r"^params\.yaml: not YAML \([^\n]*\)$"):
        merge_params("a: {", BASE, NEW, {}, {})

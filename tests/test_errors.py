"""One line for every mistake, in the words of the command that was asked."""

from __future__ import annotations

import pytest

from gaal_fast.errors import UserError, carried_by_errors, closest, nearest, some


def test_a_key_is_spelled_as_the_command_spells_it() -> None:
    error = UserError("must be cpu, got x", key="train.device")
    assert str(error) == "--train.device must be cpu, got x"
    assert error.line({"train.device": "--device"}) == "--device must be cpu, got x"
    assert str(UserError(": no such file: a.csv", key="csv")) == "--csv: no such file: a.csv"
    assert str(UserError("a.csv is empty")) == "a.csv is empty"


def test_warnings_found_before_an_error_go_with_it_in_order() -> None:
    with (
        pytest.raises(UserError) as caught,
        carried_by_errors(["first"]),
        carried_by_errors(["second"]),
    ):
        raise UserError("wrong")
    assert caught.value.warnings == ["first", "second"]


@pytest.mark.parametrize(
    ("name", "cutoff", "found"),
    [("concta", 0.5, "concat"), ("zzz", 0.5, None), ("zzz", 0.0, "gaal"), ("gaal", 1.0, "gaal")],
)
def test_the_closest_name(name: str, cutoff: float, found: str | None) -> None:
    known = ["gaal", "concat"] if cutoff else ["gaal"]
    assert closest(name, known, cutoff=cutoff) == found


def test_words_for_the_nearest_name() -> None:
    assert nearest("concta", ["gaal", "concat"]) == "; did you mean concat?"
    assert nearest("zzz", ["gaal", "concat"]) == ""


def test_some_of_many_names() -> None:
    assert some([]) == ""
    assert some("ab") == '"a", "b"'
    assert some(range(7)) == '"0", "1", "2", "3", "4" and 2 more'
    assert some("abc", limit=1) == '"a" and 2 more'

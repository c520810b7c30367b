"""A file gets its new contents whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from gaal_fast.files import WriteError, remove_partial, replacing, write_text


def test_a_file_is_replaced_whole_with_the_rights_of_a_plain_one(tmp_path: Path) -> None:
    file, plain = tmp_path / "a.txt", tmp_path / "plain"
    plain.write_text("")
    write_text(file, "old")
    write_text(file, "größer\n")
    assert file.read_bytes() == "größer\n".encode()
    assert stat.S_IMODE(file.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)
    assert sorted(os.listdir(tmp_path)) == ["a.txt", "plain"]


@pytest.mark.parametrize(
    "error",
    [KeyboardInterrupt(), ValueError("x"), OSError(errno.ENOSPC, "No space left on device")],
)
def test_an_error_leaves_the_former_file_and_no_other(tmp_path: Path, error: BaseException) -> None:
    file = tmp_path / "a.txt"
    write_text(file, "old")
    with (
        pytest.raises(WriteError if isinstance(error, OSError) else type(error)) as caught,
        replacing(file) as stream,
    ):
        stream.write(b"new")
        raise error
    assert file.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]
    if isinstance(error, OSError):
        assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(file))


def test_a_folder_that_is_not_there_is_named_with_the_file(tmp_path: Path) -> None:
    with pytest.raises(WriteError) as caught:
        write_text(tmp_path / "absent" / "a.txt", "x")
    assert caught.value.errno == errno.ENOENT
    assert caught.value.filename == str(tmp_path / "absent" / "a.txt")


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    for name in (".77-abc.part", "a.part", ".hidden"):
        (tmp_path / name).write_text("x")
    remove_partial(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".hidden", "a.part"]

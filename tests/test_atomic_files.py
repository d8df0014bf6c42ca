"""Files and folders appear complete or not at all."""

import pytest

from picjax.cli import UserError
from picjax.files import new_folder, open_atomic, write_text


def test_a_file_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "new" / "file.txt"
    write_text(path, "first")
    with pytest.raises(OSError), open_atomic(path) as file:
        file.write(b"half")
        raise OSError
    assert path.read_text() == "first" and len(list(path.parent.iterdir())) == 1
    write_text(path, "second")
    assert path.read_text() == "second"


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    out = tmp_path / "a" / "out"
    with pytest.raises(OSError), new_folder(out) as folder:
        (folder / "file").write_text("half")
        raise OSError
    assert not list(out.parent.iterdir())
    with new_folder(out) as folder:
        (folder / "file").write_text("whole")
        assert not out.exists()
    assert [p.name for p in out.parent.iterdir()] == ["out"]
    with (
        pytest.raises(UserError, match="cannot be created"),
        new_folder(out / "file" / "below"),
    ):
        pass

"""Files and folders appear complete or not at all."""

import numpy as np
import pytest

from picjax.cli import UserError
from picjax.files import new_folder, open_atomic, read_npz, write_text


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


def test_a_damaged_offset_in_an_npz_is_damage(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, a=np.arange(3))
    data = bytearray(path.read_bytes())
    data[-6:-2] = (int.from_bytes(data[-6:-2], "little") + 1000).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.npz' is damaged"):
        read_npz(path)

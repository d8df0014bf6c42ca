"""Files of official weights are found by the names of the original."""

import pytest
from helpers.convert import touch

from picjax.cli import UserError
from picjax.official import originals


def test_files_are_found_by_the_originals_names(tmp_path):
    names = [f"latest_net_{suffix}.pth" for suffix in ("E", "G", "GMM")]
    paths = touch(tmp_path, *names, "20000_net_E.pth", "latest_optim.pth")
    found = originals.find_files([str(tmp_path)], "picmm")
    assert {net: path.name for net, path in found.items()} == dict(
        zip(("encoder", "generator", "mixture"), names, strict=True)
    )
    assert originals.find_files(paths[:3], "picmm") == found


def test_one_iteration_must_be_meant(tmp_path):
    touch(tmp_path, "10000_net_E.pth", "20000_net_E.pth", "20000_net_G.pth")
    with pytest.raises(UserError, match="several iterations .10000, 20000."):
        originals.find_files([str(tmp_path)], "picmm")


@pytest.mark.parametrize(
    ("names", "error"),
    [
        (["facades.pth"], "facades.pth' does not say which network"),
        (["a_net_E.pth", "b_net_E.pth"], "both hold the encoder"),
        (["absent.pth"], "does not exist"),
    ],
)
def test_unclear_files(names, error, tmp_path):
    paths = touch(tmp_path, *(name for name in names if name != "absent.pth"))
    with pytest.raises(UserError, match=error):
        originals.find_files(paths or [str(tmp_path / "absent.pth")], "picmm")


def test_a_folder_without_weights(tmp_path):
    with pytest.raises(UserError, match="holds no file like latest_net_E.pth"):
        originals.find_files([str(tmp_path)], "picmm")

"""Published files are compared with their whole SHA-256, once per process."""

import hashlib
import re

import pytest

from picjax.cli import UserError
from picjax.evaluation.metrics import backbones, hyperiqa, inception, nima
from picjax.official import digests


def released():
    each = [*backbones.RELEASED.values(), *inception.RELEASED.values()]
    return [*each, hyperiqa.RELEASED, nima.RELEASED]


def test_known_digests_agree_with_the_names():
    for name, digest in digests.KNOWN.items():
        assert re.fullmatch(r"[0-9a-f]{64}", digest)
        found = re.search(r"-([0-9a-f]{8})\.pth$", name)
        assert found is None or digest.startswith(found[1])


def test_every_downloaded_file_has_digits():
    for network in released():
        name = network.names[0]
        assert name in digests.KNOWN or re.search(r"-[0-9a-f]{8}\.pth$", name)


def test_another_file_under_a_known_name(tmp_path):
    path = tmp_path / "vgg19-dcbb9e9d.pth"
    path.write_bytes(b"not VGG19")
    with pytest.raises(UserError, match=r"is not the released file \(SHA-256"):
        digests.verify(path)


def test_a_prefix_is_compared_where_no_more_is_known(tmp_path):
    path = tmp_path / "net.pth"
    path.write_bytes(b"a network")
    digest = hashlib.sha256(b"a network").hexdigest()
    assert digests.verify(path, prefix=digest[:8]) == digest
    with pytest.raises(UserError, match="not the released file"):
        digests.verify(path, prefix="00000000")


def test_bytes_are_read_once_per_process(tmp_path, monkeypatch):
    path = tmp_path / "net.pth"
    path.write_bytes(b"a network of this test")
    first = digests.verify(path)
    monkeypatch.setattr(digests.pooch, "file_hash", lambda *_, **__: "read again")
    assert digests.verify(path) == first
    path.write_bytes(b"replaced by another")  # of another size
    assert digests.verify(path) == "read again"

"""Published files of weights: a file of a known name must be that file, whole.

The digests were compared between independent publications of them; a file of another
name is read as any untrusted file.
"""

import os
from functools import lru_cache
from pathlib import Path

import pooch

from picjax.cli import UserError

# File -> SHA-256.
KNOWN = {
    "alexnet-owt-7be5be79.pth": (
        "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02"
    ),
    "vgg16-397923af.pth": (
        "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0"
    ),
    "vgg19-dcbb9e9d.pth": (
        "dcbb9e9dad569fff7a846263a77324fc34978fea2bfb039c012d710e1776ae44"
    ),
    "squeezenet1_1-b8a52dc0.pth": (
        "b8a52dc049b60e4b6ab68ad0df457362afab8b6304b2febdc1650a5dab4d7e7b"
    ),
    "inception_v3_google-0cc3c7bd.pth": (
        "0cc3c7bd75056d25e46cba549dc184522069b81e9787eff6df84f397bd52a5ef"
    ),
    "pt_inception-2015-12-05-6726825d.pth": (
        "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
    ),
    "weights-inception-2015-12-05-6726825d.pth": (
        "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
    ),
    "256x256_diffusion_uncond.pt": (
        "a37c32fffd316cd494cf3f35b339936debdc1576dad13fe57c42399a5dbc78b1"
    ),
}


def verify(path: Path, name: str = "", prefix: str = "") -> str:
    """Compare a file with the published one; its bytes are read once per process.

    Args:
      path: the file.
      name: of the published file; empty: the file's own.
      prefix: the first digits, for a name that is not in KNOWN.

    Returns:
      The file's SHA-256.

    Raises:
      UserError: if it has the name of a published file, but other bytes.
    """
    status = os.stat(path)
    actual = _digest(str(path), status.st_mtime_ns, status.st_size)
    expected = KNOWN.get(name or path.name, prefix)
    if not actual.startswith(expected):
        raise UserError(
            f"'{path}' is not the released file (SHA-256 {actual[:8]}..., not "
            f"{expected[:8]}...); copy or download it again"
        )
    return actual


@lru_cache
def _digest(path: str, modified: int, size: int) -> str:
    del modified, size  # another file under the same name is read anew
    return pooch.file_hash(path, alg="sha256")

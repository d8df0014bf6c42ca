"""`--reference DIR`: the folder of reference files, by default tests/reference."""

from pathlib import Path

import pytest

DEFAULT = Path(__file__).parent.parent / "reference"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--reference",
        metavar="DIR",
        help="check every .npz below this folder (default: tests/reference)",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "reference_file" not in metafunc.fixturenames:
        return
    # Absent when pytest began elsewhere and met this file only while collecting.
    given = metafunc.config.getoption("--reference", default=None)
    folder = (metafunc.config.invocation_params.dir / given) if given else DEFAULT
    files = sorted(folder.rglob("*.npz"))
    if not files:
        raise pytest.UsageError(f"no .npz file below {folder}; mend --reference")
    ids = [str(path.relative_to(folder).with_suffix("")) for path in files]
    metafunc.parametrize("reference_file", files, ids=ids)

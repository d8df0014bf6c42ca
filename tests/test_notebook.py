"""The notebook of the documentation; `make notebook` executes it."""

import ast
import json
from pathlib import Path

import pytest

from picjax import curves, eval, export, flags, images, plot, train  # noqa: F401

NOTEBOOK = Path(__file__).parents[1] / "docs" / "notebooks" / "picjax.ipynb"


@pytest.fixture(scope="module")
def cells():
    return json.loads(NOTEBOOK.read_text())["cells"]


def test_it_has_ten_cells_and_no_stored_output(cells):
    assert len(cells) == 10
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] for cell in code)
    assert all(cell["execution_count"] is None for cell in code)


def test_what_it_calls_of_picjax_exists(cells):
    lines = [x for c in cells if c["cell_type"] == "code" for x in (*c["source"], "\n")]
    code = "".join(x for x in lines if not x.startswith("%"))  # magics are not Python
    called = {
        (node.value.id, node.attr)
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }
    modules = {**globals(), "evaluation": eval}
    own = {(name, attr) for name, attr in called if name in modules}
    assert len(own) >= 9
    for name, attr in own:
        assert hasattr(modules[name], attr), f"{name}.{attr}"

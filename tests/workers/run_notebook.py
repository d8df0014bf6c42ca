"""Executes a notebook in a kernel of its own: python run_notebook.py FILE

The environment variable PICJAX_STEPS shortens its training. An error of a cell ends the
program with its traceback.
"""

import sys
from pathlib import Path

import nbclient
import nbformat

if __name__ == "__main__":
    path = Path(sys.argv[1])
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(
        notebook, timeout=None, kernel_name="python3", iopub_timeout=60
    ).execute()
    outputs = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    pictures = [
        output
        for cell in outputs
        for output in cell
        if "image/png" in output.get("data", {})
    ]
    assert len(pictures) >= 3, "the curves and two grids are shown"
    print(f"{path}: {len(outputs)} cells of code ran, {len(pictures)} pictures")

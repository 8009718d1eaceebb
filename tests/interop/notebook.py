"""Executes the notebook of rigl_xla.Run, as a user does who runs all its cells.

Arguments: the notebook, the folder of the package, the folder of the program, and the folder to work in. A fifth one is a file for
the executed notebook.
"""

import os
import sys

import nbformat
from nbclient import NotebookClient

path, package, program, folder, *output = sys.argv[1:]
os.environ["PYTHONPATH"] = os.pathsep.join([package, os.environ.get("PYTHONPATH", "")])
os.environ["PATH"] = os.pathsep.join([program, os.environ["PATH"]])
os.environ.update(MPLCONFIGDIR=folder, IPYTHONDIR=folder, JUPYTER_RUNTIME_DIR=folder)
notebook = nbformat.read(path, as_version=4)
nbformat.validate(notebook)
NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": folder}}).execute()

cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
found = [result for cell in cells for result in cell.outputs]
errors = [result.text for result in found if result.output_type == "stream" and result.name == "stderr"]
assert not errors, errors
kinds = [kind for result in found for kind in result.get("data", {})]
assert kinds.count("image/png") == 2, kinds
assert kinds.count("text/html") == 2, kinds  # data frames
printed = "".join(result.text for result in found if result.output_type == "stream")
assert printed.count("of them from the start") == 3, printed
assert found[-1].data["text/plain"].startswith("((16, 10)"), found[-1]
if output:
    nbformat.write(notebook, output[0])
print("executed")

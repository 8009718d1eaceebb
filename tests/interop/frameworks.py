"""Runs the examples of `python/examples` as their first lines say. Arguments: the program, a scratch folder, examples."""

import json
import os
import subprocess
import sys

PROGRAM, SCRATCH, *EXAMPLES = sys.argv[1:]
PYTHON = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../python")
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join([os.environ["PYTHONPATH"], PYTHON])}


def command(*args):
    done = subprocess.run(args, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    return done.stdout


for example in EXAMPLES:
    script = os.path.join(PYTHON, "examples", f"{example}_mlp.py")
    folder = os.path.join(SCRATCH, example)
    run = os.path.join(folder, "run")
    command(sys.executable, "-B", script, folder)
    model, data = (os.path.join(folder, name) for name in ("model.rigl", "arrays.npz"))
    args = ["--model", model, "--data", data, "--steps", "200", "--out", run, "--json"]
    trained = json.loads(command(PROGRAM, "train", *args))
    printed = dict(line.split() for line in command(sys.executable, "-B", script, folder, run).splitlines())
    # The framework predicts with the sparse weights as the program does.
    assert abs(float(printed["accuracy"]) - trained["eval"]["metrics"]["accuracy"]) < 1e-6, (printed, trained["eval"])
    assert float(printed["accuracy"]) > 0.9 and float(printed["zeros"]) > 0.8, printed
    print(example)

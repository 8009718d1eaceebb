#!/usr/bin/env python3
"""Single convolutions by PyTorch (dense, oneDNN) and, where it is installed, by SparseProp: JSON, one object a line.

For `sparse_layers.py`, which reads the layers from our own bench and passes them as JSON on standard input.
"""
import argparse
import json
import sys
import time

import torch

try:
    from sparseprop.modules import SparseConv2d
except ImportError:
    SparseConv2d = None


def least(run, seconds, clock):
    run()
    best, begin = float("inf"), clock()
    while clock() - begin < seconds:
        start = clock()
        run()
        best = min(best, clock() - start)
    return best


def passes(conv, x, seconds, clock):
    """Microseconds of a forward pass, and of a backward pass for both gradients."""
    with torch.no_grad():
        forward = least(lambda: conv(x), seconds, clock)
    y = conv(x.requires_grad_())
    dy = torch.randn_like(y)
    wanted = [x, next(conv.parameters())]
    backward = least(lambda: torch.autograd.grad(y, wanted, dy, retain_graph=True), seconds, clock)
    return {"forward_us": round(forward * 1e6, 1), "backward_us": round(backward * 1e6, 1)}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--seconds", type=float, default=0.1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if SparseConv2d:
        import sparseprop

        sparseprop.set_num_threads(args.threads)
    clock = time.thread_time if args.threads == 1 else time.perf_counter
    for layer in json.load(sys.stdin):
        size, inputs, outputs, side = (layer[field] for field in ("size", "inputs", "outputs", "side"))
        x = torch.randn(layer["batch"], inputs, side, side)
        conv = torch.nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False)
        if layer["sparsity"] is None:
            x, conv = (value.to(memory_format=torch.channels_last) for value in (x, conv))
            found = {"peer": "PyTorch, dense", **passes(conv, x, args.seconds, clock)}
            print(json.dumps({**layer, **found}), flush=True)
        elif SparseConv2d:
            with torch.no_grad():
                conv.weight *= torch.rand_like(conv.weight) >= layer["sparsity"]
            # Its two forms: vectors over the batch, or over the width.
            for form in (True, False):
                sparse = SparseConv2d.from_dense(conv, vectorizing_over_on=form)
                found = {"peer": f"SparseProp, {'batch' if form else 'width'}", **passes(sparse, x.clone(), args.seconds, clock)}
                print(json.dumps({**layer, **found}), flush=True)


if __name__ == "__main__":
    main()

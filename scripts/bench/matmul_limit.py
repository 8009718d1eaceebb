"""The machine's own limit for the MNIST network: nothing but the eight matrix products of one training step, batch 100.

Forward three, kernel gradients three, input gradients two, in f32, each by the library's own call on arrays that are already
there. Libraries: NumPy's OpenBLAS with one thread and with all, and XLA's dot through JAX. The fastest is the limit.
Prints one JSON object; each library is measured in a process of its own, so that its threads are set before it loads.
"""
import argparse
import json
import os
import subprocess
import sys
import time

BATCH, SIZES = 100, (784, 300, 100, 10)
FLOPS = 2 * BATCH * (3 * (784 * 300 + 300 * 100 + 100 * 10) - 784 * 300)


def operands():
    """Pairs (A, B) for every product A @ B; transposes are views, as a program would have them."""
    import numpy as np

    random = np.random.default_rng(0)

    def array(*shape):
        return random.standard_normal(shape, dtype=np.float32)

    layers = list(zip(SIZES, SIZES[1:]))
    pairs = [(array(BATCH, fan_in), array(fan_in, fan_out)) for fan_in, fan_out in layers]
    pairs += [(array(BATCH, fan_in).T, array(BATCH, fan_out)) for fan_in, fan_out in layers]
    pairs += [(array(BATCH, fan_out), array(fan_in, fan_out).T) for fan_in, fan_out in layers[1:]]
    return pairs


def numpy_step():
    import numpy as np

    pairs = [(a, b, np.empty((a.shape[0], b.shape[1]), np.float32)) for a, b in operands()]

    def step():
        for a, b, out in pairs:
            np.matmul(a, b, out=out)

    return step


def jax_step():
    import jax

    # Transposes belong to the product (its contracted dimension), not to a copy before it.
    flags = [(not a.flags.c_contiguous, not b.flags.c_contiguous) for a, b in operands()]
    arrays = [
        (jax.device_put(a.T if ta else a), jax.device_put(b.T if tb else b))
        for (a, b), (ta, tb) in zip(operands(), flags)
    ]

    @jax.jit
    def products(arrays):
        return [
            jax.lax.dot_general(a, b, (((0 if ta else 1,), (1 if tb else 0,)), ((), ())))
            for (a, b), (ta, tb) in zip(arrays, flags)
        ]

    return lambda: jax.block_until_ready(products(arrays))


def rate(step, seconds, blocks=8):
    """Steps per second of the best of `blocks` equal stretches of time."""
    end = time.perf_counter() + 0.3
    while time.perf_counter() < end:
        step()
    best = 0.0
    for _ in range(blocks):
        count, started = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - started) < seconds / blocks:
            for _ in range(10):
                step()
            count += 10
        best = max(best, count / elapsed)
    return best


CASES = {
    "openblas-1": ("numpy", {"OPENBLAS_NUM_THREADS": "1"}),
    "openblas": ("numpy", {}),
    "xla-1": ("jax", {"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"}),
    "xla": ("jax", {}),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="per library")
    parser.add_argument("--library", choices=("numpy", "jax"), help="measure this one here (used internally)")
    args = parser.parse_args()
    if args.library:
        print(rate(numpy_step() if args.library == "numpy" else jax_step(), args.seconds))
        return
    rates = {}
    for name, (library, environment) in CASES.items():
        command = [sys.executable, os.path.abspath(__file__), "--library", library, "--seconds", str(args.seconds)]
        done = subprocess.run(command, env={**os.environ, **environment}, stdout=subprocess.PIPE, check=True, text=True)
        rates[name] = round(float(done.stdout), 1)
    best = max(rates, key=rates.get)
    print(json.dumps({
        "program": "matmul", "library": best, "steps_per_s": rates[best],
        "gflops": round(rates[best] * FLOPS / 1e9, 1), "all": rates,
    }))


if __name__ == "__main__":
    main()

"""Checks the NumPy twin against worked values: of the reference (1.2, 2.2-2.5, 2.9, tests of 7) and TensorFlow 1.15."""

import numpy as np
from methods import LAST, STEP, n_zeros, random_mask
from network import Layer
from schedules import drop_fraction, pruning_sparsity
from training import Run

F = np.float32
LAYER = Layer("layer", "layer/weights", None, "layer/mask")
SHAPE = (3, 4)
WEIGHTS = [0.9, -0.05, 0.4, 0.7, -0.3, 0.2, -0.8, 0.1, 0.6, -0.15, 0.5, -0.35]
MASK = [1, 1, 0, 1, 1, 0, 1, 1, 0, 1, 1, 0]
GRADIENT = [0.1, 0.2, 0.9, 0.3, 0.05, 0.8, 0, 0.6, 0.7, -1.0, 0.4, -0.65]


class Toy:
    """One layer whose loss is linear in the masked kernel, `gradient(step)`."""

    layers = [LAYER]

    def __init__(self, gradient):
        self.gradient = gradient

    def gradients(self, state):
        return {LAYER.name: (np.asarray(self.gradient(int(state[STEP])), F).reshape(state[LAYER.kernel].shape), None)}


def toy(method, weights, gradient, mask=None, **settings):
    """A run of one layer; names of settings have `__` for the dot."""
    plain = {"optimizer.weight_decay": 0.0, "optimizer.name": "sgd", "learning_rate.base": 0.1}
    settings = plain | {name.replace("__", "."): value for name, value in settings.items()}
    run = Run(method, settings, Toy(gradient))
    run.start({LAYER.kernel: np.asarray(weights, F)})
    if mask is not None:
        run.state[LAYER.mask] = np.asarray(mask).reshape(run.state[LAYER.kernel].shape) == 1
    return run


def kernel(run):
    return run.state[LAYER.kernel].ravel()


def mask(run):
    return run.state[LAYER.mask].ravel().astype(int).tolist()


def close(got, want, tolerance=5.1e-4):
    np.testing.assert_allclose(got, want, atol=tolerance, rtol=0)


def test_random_masks():
    generator = np.random.RandomState(0)
    wants = [
        ((784, 300), 0.98, 4704, [5, 9, 75, 83, 85, 183, 185, 285, 413, 433], 548768562),
        ((300, 100), 0.98 * 0.9, 3540, [3, 11, 12, 17, 22, 32, 33, 40, 46, 50], 52862081),
        ((100, 10), 0, 1000, list(range(10)), 499500),
    ]
    for shape, sparsity, count, first, total in wants:
        ones = np.flatnonzero(random_mask(shape, sparsity, generator))
        assert (ones.size, ones[:10].tolist(), ones.sum()) == (count, first, total)
    generator = np.random.RandomState(0)
    for want in ("10101101000100110011", "10110111100010100100"):
        drawn = random_mask((4, 5), 0.5, generator).ravel()
        assert "".join(str(int(bit)) for bit in drawn) == want


def test_drop_fractions():
    for step, want in ((100, 0.299988157), (5000, 0.271352549), (12500, 0.15), (20000, 0.028647451), (25000, 0)):
        close(drop_fraction(step, 0, 25000, 0.3, "cosine"), want, 3e-8)
    # The cosine looks at the step, not at its distance from the beginning.
    assert drop_fraction(100, 100, 200, 0.4, "cosine") == 0
    assert drop_fraction(7, 0, 10, 0.3, "constant") == F(0.3)
    for anneal, step, want in (("exponential", 150, 0.3), ("exponential_3", 200, 0.05), ("exponential_.5", 100, 0.4)):
        close(drop_fraction(step, 100, 300, 0.4, anneal), want, 1e-8 + 1e-7 * want)


def test_pruning_sparsities():
    for step, want in ((20000, 0), (47500, 0.7875), (75000, 0.9), (0, 0), (97656, 0.9)):
        close(pruning_sparsity(step, 20000, 75000, 0.9), want, 1e-7)
    close(pruning_sparsity(16000, 2000, 30000, 0.98), 0.8575, 1e-7)


def example(method, **settings):
    """The worked example of 2.3."""
    nesterov = {"optimizer__name": "momentum", "mask_update__drop_fraction": 0.5, "mask_update__anneal": "constant"}
    run = toy(method, np.reshape(WEIGHTS, SHAPE), lambda step: GRADIENT, MASK, **(nesterov | settings))
    run.state["layer/weights/Momentum"] = np.arange(1, 13, dtype=F).reshape(SHAPE)
    return run


def slot(run):
    return run.state["layer/weights/Momentum"].ravel()


def test_rigl_example():
    run = example("rigl")
    assert run.iterate() and run.state[STEP] == 0 and run.state[LAST] == 0
    assert mask(run) == [1, 0, 1, 1, 0, 1, 1, 0, 1, 1, 1, 0]
    close(kernel(run), [0.9, -0.05, 0, 0.7, -0.3, 0, -0.8, 0.1, 0, -0.15, 0.5, -0.35], 1e-7)
    assert slot(run).tolist() == [1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 12]
    assert not run.iterate() and run.state[STEP] == 1
    weights = [0.8, -0.212, -0.171, 0.319, -0.705, -0.152, -1.367, -0.548, -0.133, -0.77, -0.467, -1.322]
    close(kernel(run), weights)
    close(slot(run), [1, 1.8, 0.9, 3.9, 4.5, 0.8, 6.3, 7.2, 0.7, 8, 10.3, 10.8])


def test_rigl_example_scaled():
    run = example("rigl", method__grow_init="grad_scale_10", method__initial_accumulator_scale=0.5)
    run.iterate()
    close(kernel(run)[[2, 5, 8]], [0.09, 0.08, 0.07], 1e-7)
    close(slot(run)[[2, 5, 8]], [0.45, 0.40, 0.35], 1e-7)
    run = example("rigl", method__grow_init="grad_sign_.5")
    run.iterate()
    assert kernel(run)[[2, 5, 8]].tolist() == [2, 2, 2]


def test_rigl_inverted_example():
    """The smallest gradients of entries that are not kept grow: entries 4 (0.05), 1 (0.2), 7 (0.6) and 11 (0.65)."""
    run = example("rigl-inverted", method__grow_init="grad_scale", method__initial_accumulator_scale=0.5)
    assert run.iterate() and run.state[STEP] == 0
    assert mask(run) == [1, 1, 0, 1, 1, 0, 1, 1, 0, 0, 1, 1]
    assert (kernel(run)[11], slot(run)[11], slot(run)[7]) == (0, 0, 8)


def test_snfs_example():
    run = example("snfs")
    stepped = example("scratch")
    stepped.iterate()
    assert run.iterate() and run.state[STEP] == 1
    assert mask(run) == [1, 0, 1, 0, 1, 1, 1, 0, 1, 1, 0, 1]
    new = [2, 5, 8, 11]
    assert not kernel(run)[new].any() and not slot(run)[new].any()
    others = [i for i in range(12) if i not in new]
    assert kernel(run)[others].tolist() == kernel(stepped)[others].tolist()
    assert slot(run)[others].tolist() == slot(stepped)[others].tolist()


def trace(method, begin, end, frequency, iterations):
    """Steps before and after each iteration and whether it updated masks, and the drop fractions of those that did."""
    generator = np.random.RandomState(1)
    weights = generator.normal(size=(10, 20))
    span = {"mask_update__begin_step": begin, "mask_update__end_step": end, "mask_update__frequency_steps": frequency}
    run = toy(method, weights, lambda step: generator.normal(size=200), sparsity__target=0.75, **span)
    found, fractions = [], []
    for _ in range(iterations):
        before = int(run.state[STEP])
        updated = run.iterate()
        found.append((before, int(run.state[STEP]), updated))
        if updated:
            fractions.append(drop_fraction(int(run.state[STEP]), begin, end, 0.3, "cosine"))
    return found, fractions


def test_traces():
    found, fractions = trace("rigl", 0, 8, 3, 10)
    steps = [(0, 0), (0, 1), (1, 2), (2, 3), (3, 3), (3, 4), (4, 5), (5, 6), (6, 6), (6, 7)]
    assert found == [(*pair, pair[0] == pair[1]) for pair in steps]
    close(fractions, [0.3, 0.2074, 0.0439], 5e-5)
    assert [int(F(50) * fraction) for fraction in fractions] == [15, 10, 2]
    found, fractions = trace("snfs", 0, 8, 3, 12)
    assert [after for _, after, updated in found if updated] == [1, 4, 7]
    assert all(after == before + 1 for before, after, _ in found)
    close(fractions, [0.2886, 0.15, 0.0114], 5e-5)
    for span, want in (((3, 7, 2), "11101101101"), ((1, 5, 3), "10111011111"), ((0, 4, 1), "01010101011")):
        found, _ = trace("rigl", *span, 11)
        assert "".join(str(after - before) for before, after, _ in found) == want


def test_set():
    """Grown connections are those of the observed masks, and are re-initialised."""
    mask_before = [1, 1, 1, 0, 0, 0, 0, 0]
    weights = [0.9, 0.1, 0.5, 7, 7, 7, 7, 7]
    third = {"mask_update__drop_fraction": 0.34, "mask_update__anneal": "constant"}
    run = toy("set", weights, lambda step: np.zeros(8), mask_before, **third)
    observed = {LAYER.mask: np.array([1, 0, 1, 0, 0, 1, 0, 0]) == 1}
    assert run.iterate(observed) and mask(run) == [1, 0, 1, 0, 0, 1, 0, 0]
    close(kernel(run), [0.9, 0.1, 0.5, 7, 7, 0, 7, 7], 1e-7)


def test_doubts():
    """Rounding may swap entries 1 and 2, whose scores nearly meet at the boundary; equal scores are never in doubt."""
    near = np.nextafter(F(2), F(3))
    for scores, want in (([5, near, 2, 1], [0, 1, 1, 0]), ([5, 2, 2, 1], [0, 0, 0, 0]), ([5, 3, 2, 1], [0, 0, 0, 0])):
        run = toy("scratch", scores, lambda step: np.zeros(4))
        run.doubt(LAYER, np.asarray(scores, F), np.array([1, 1, 0, 0]) == 1, np.ones(4, bool))
        assert run.doubtful(LAYER).astype(int).tolist() == want


def test_static():
    """Unit test 11, and re-initialisation of the weakest half, in a layer of ones too."""
    for ones in (MASK, [1] * 12):
        half = {"mask_update__drop_fraction": 0.5, "mask_update__frequency_steps": 2}
        run = example("static", **half)
        run.state[LAYER.mask] = np.reshape(ones, SHAPE) == 1
        for iteration in range(5):
            stepped = example("scratch")
            stepped.state = dict(run.state)
            stepped.iterate()
            due = iteration % 2 == 0
            assert run.iterate() == due and mask(run) == ones
            active = np.flatnonzero(ones)
            weakest = active[np.argsort(np.abs(kernel(stepped)[active]), kind="stable")][: len(active) // 2]
            changed = np.flatnonzero(kernel(run) != kernel(stepped))
            assert changed.tolist() == (sorted(weakest) if due else [])
            assert not kernel(run)[changed].any() and not slot(run)[changed].any()


def test_snfs_average():
    """Unit test 12, exact."""
    for n_in, n_out, m in ((3, 4, 0.5), (5, 2, 0), (2, 5, 1)):
        gradient = np.tile(np.arange(n_out), (n_in, 1))
        run = toy("snfs", np.ones((n_in, n_out)), lambda step: gradient, method__ema_momentum=m)
        expected = np.zeros((n_in, n_out), F)
        for _ in range(6):
            run.iterate()
            expected = m * expected + (1 - m) * gradient
            assert (run.state["layer/weights/ExponentialMovingAverage"] == expected).all()


def test_snip():
    """Unit test 15, and that the score holds the L2 term."""
    generator = np.random.RandomState(2)
    for n_in, n_out, sparsity in ((3, 4, 0.5), (5, 3, 0.8), (8, 5, 0.8)):
        weights, gradient = generator.normal(size=(2, n_in, n_out)).astype(F)
        run = toy("snip", weights, lambda step: gradient, sparsity__target=sparsity, optimizer__weight_decay=0.5)
        assert run.state[LAYER.mask].all()
        chosen = []
        for count in (0, 0, 1, 2):
            assert run.state[STEP] == count
            chosen.append(run.iterate())
            kept = run.state[LAYER.mask]
            scores = np.abs(weights * (gradient + F(0.5) * weights))
            assert (~kept).sum() == n_zeros(kept.size, sparsity)
            assert scores[kept].min() >= scores[~kept].max()
        assert chosen == [True, False, False, False] and run.state["is_snipped"]


def test_dnw():
    """Unit test 16, and that weights take the dense gradient without L2."""
    generator = np.random.RandomState(3)
    for n_in, n_out, sparsity in ((3, 4, 0.5), (5, 3, 0.8), (8, 5, 0.8)):
        weights, gradient = generator.normal(size=(2, n_in, n_out)).astype(F)
        run = toy("dnw", weights, lambda step: gradient, sparsity__target=sparsity, optimizer__weight_decay=0.5)
        assert run.state[LAYER.mask].all()
        for _ in range(5):
            before = run.state[LAYER.kernel]
            run.iterate()
            after, kept = run.state[LAYER.kernel], run.state[LAYER.mask]
            assert (after == before - F(0.1) * gradient).all()
            assert (~kept).sum() == n_zeros(kept.size, sparsity)
            assert np.abs(after[kept]).min() >= np.abs(after[~kept]).max()


def test_prune():
    """Steps of updates, halves rounded to even, and ties that survive."""
    weights = [4, -3, 3, 3, -2, 2, 1, 0, 0, 0]
    span = {"prune__begin_step": 2, "prune__end_step": 6, "prune__frequency_steps": 2, "prune__exponent": 1.0}
    run = toy("prune", weights, lambda step: np.zeros(10), sparsity__target=0.9, **span)
    found = []
    for _ in range(8):
        if run.iterate():
            threshold = float(run.state["layer/threshold"])
            last = int(run.state["model_pruning/last_mask_update_step"])
            found.append((int(run.state[STEP]), threshold, sum(mask(run)), last))
    # Sparsities 0, 0.45 and 0.9: of 10 weights 10, 5.5 rounded to 6, and 1.
    assert found == [(2, 0, 10, 2), (4, 2, 6, 4), (6, 4, 1, 6)], found
    sooner = span | {"prune__begin_step": -2, "prune__end_step": 2}
    run = toy("prune", weights, lambda step: np.zeros(10), sparsity__target=0.75, **sooner)
    assert [run.iterate(), run.iterate()] == [False, True]
    # 2.5 rounds to 2, and the second largest of all is 3: three weights have it.
    assert (float(run.state["layer/threshold"]), sum(mask(run))) == (3, 4)


class Layers:
    """Layers without gradients."""

    layers = [Layer(name, f"{name}/weights", None, f"{name}/mask") for name in ("layer1", "layer2", "layer3")]

    def gradients(self, state):
        return {layer.name: (np.zeros_like(state[layer.kernel]), None) for layer in self.layers}


def test_prune_as_tensorflow():
    """Made with TensorFlow 1.15's own pruning. Its last update starts at 0, so that step 2 is too early."""
    span = {"prune.begin_step": 2, "prune.end_step": 9, "prune.frequency_steps": 3, "prune.initial_sparsity": 0.1}
    run = Run("prune", span | {"optimizer.name": "sgd", "optimizer.weight_decay": 0.0}, Layers())
    weights = np.round((np.arange(600) * 7919 % 601 - 300) / 8) / 8
    run.start({layer.kernel: weights.reshape(30, 20).astype(F) for layer in run.layers})
    wants = {
        3: ([2, 1.75, 0], [353, 385, 600]),
        6: ([4.25, 3.875, 0], [66, 112, 600]),
        9: ([4.625, 4.125, 0], [16, 80, 600]),
    }
    for step in range(1, 12):
        assert run.iterate() == (step in wants)
        if step in wants:
            thresholds = [float(run.state[f"{layer.name}/threshold"]) for layer in run.layers]
            ones = [int(run.state[layer.mask].sum()) for layer in run.layers]
            assert (thresholds, ones) == wants[step], (step, thresholds, ones)


def test_sgd_and_momentum():
    run = toy("dense", [1, 1], lambda step: [0.5, -2], optimizer__weight_decay=0.1)
    run.iterate()
    close(kernel(run), [0.94, 1.19], 1e-7)
    run = toy("dense", [1, 1], lambda step: [0.5, -2], optimizer__name="momentum", optimizer__nesterov=False)
    run.iterate(), run.iterate()
    close(kernel(run), [1 - 0.1 * 0.5 * 2.9, 1 + 0.1 * 2 * 2.9], 1e-6)


def test_adam_as_tensorflow():
    """Made with TensorFlow 1.15's Adam: `1 - beta2` is 0.00099998713, as float32 has it."""
    gradients = [[0.5, -2, 1e-6], [-0.25, 1, 3], [1e-8, 0.125, -1]]
    settings = {"optimizer__name": "adam", "learning_rate__base": 0.01}
    run = toy("dense", [1, -0.5, 0.25], lambda step: gradients[step], **settings)
    close([run.state["beta1_power"], run.state["beta2_power"]], [0.9, 0.999], 1e-7)
    for _ in gradients:
        run.iterate()
    wants = {
        "": [0.98527783, -0.48563793, 0.2315255],
        "/Adam": [0.018000003, -0.05950001, 0.1700001],
        "/Adam_1": [0.000311934, 0.005006564, 0.009990872],
    }
    for slot, want in wants.items():
        np.testing.assert_allclose(run.state[LAYER.kernel + slot], want, rtol=2e-6)
    close([run.state["beta1_power"], run.state["beta2_power"]], [0.6560999, 0.9960061], 1e-7)


tests = [value for name, value in list(globals().items()) if name.startswith("test_")]
for test in tests:
    test()
print(f"{len(tests)} tests")

"""Checks of the twin against worked values of the reference and against float64 NumPy; `mnist_twin.py --self-test`."""
import jax
import jax.numpy as jnp
import numpy as np

import mnist_twin as twin

W = np.array([[0.9, -0.05, 0.4, 0.7], [-0.3, 0.2, -0.8, 0.1], [0.6, -0.15, 0.5, -0.35]], np.float32)
M = np.array([[1, 1, 0, 1], [1, 0, 1, 1], [0, 1, 1, 0]], np.float32)
G = np.array([[0.1, 0.2, 0.9, 0.3], [0.05, 0.8, 0, 0.6], [0.7, -1.0, 0.4, -0.65]], np.float32)
V = np.arange(1, 13, dtype=np.float32).reshape(3, 4)


def close(got, want, tolerance=5e-4):
    np.testing.assert_allclose(np.asarray(got), np.asarray(want, np.float64), atol=tolerance, rtol=0)


def test_random_masks():
    """Reference 1.2, golden vectors of seed 0."""
    masks = [mask.ravel() for mask in twin.random_masks(0)]
    first_ten = [5, 9, 75, 83, 85, 183, 185, 285, 413, 433], [3, 11, 12, 17, 22, 32, 33, 40, 46, 50], list(range(10))
    for mask, ones, total, first in zip(masks, (4704, 3540, 1000), (548768562, 52862081, 499500), first_ten):
        indices = np.flatnonzero(mask)
        assert (len(indices), indices.sum(), list(indices[:10])) == (ones, total, first)
    two = np.concatenate([mask.ravel() for mask in twin.random_masks(0, ((4, 5), (4, 5)), (0.5, 0.5))])
    want = "1 0 1 0 1 1 0 1 0 0 0 1 0 0 1 1 0 0 1 1 1 0 1 1 0 1 1 1 1 0 0 0 1 0 1 0 0 1 0 0".split()
    assert list(two) == [float(bit) for bit in want]


def test_drop_fraction():
    """Reference 2.2, cosine from 0.3 over 25000 steps."""
    schedule = twin.Schedule(0, 25000, 100, 0.3)
    for step, want in ((100, 0.299988157), (5000, 0.271352549), (12500, 0.15), (20000, 0.028647451), (25000, 0)):
        close(schedule.drop_fraction(step), want, 1e-7)
    # Rounding decides connections: 531 of 3540, not 530.
    assert schedule.drop_fraction(12500) == twin.Schedule().drop_fraction(25000) == np.float32(0.15000002)


def trace(method, schedule, iterations, ones=50, size=200):
    """Step counters before and after each iteration, and connections moved by it, on one random layer."""
    random = np.random.RandomState(1)
    mask = twin.random_masks(0, ((10, size // 10),), (1 - ones / size,))
    weight = random.normal(size=mask[0].shape).astype(np.float32)
    state = one_layer_state(weight, mask[0], np.zeros_like(weight), schedule)
    steps, moved, fractions = [], [], []
    for index in range(iterations):
        gradient = random.normal(size=weight.shape).astype(np.float32)
        after = twin.iteration(state, (gradient,), (), method, schedule, jax.random.key(index))
        assert int(after.masks[0].sum()) == ones
        steps.append(int(after.step))
        if int(after.last) != int(state.last):
            # A dropped connection may come straight back, so fewer entries than `pruned` may change.
            moved.append(int(jnp.sum(jnp.abs(after.masks[0] - state.masks[0]))) // 2)
            fractions.append(float(schedule.drop_fraction(after.last)))
        state = after
    return steps, moved, fractions


def one_layer_state(weight, mask, slot, schedule):
    return twin.State(
        weights=(jnp.asarray(weight),),
        biases=(),
        masks=(jnp.asarray(mask),),
        weight_slots=(jnp.asarray(slot),),
        bias_slots=(),
        step=jnp.int32(0),
        last=jnp.int32(-schedule.frequency),
        updates=jnp.int32(0),
    )


def test_rigl_trace():
    """Reference 2.3's trace, and unit test 14 of section 7."""
    schedule = twin.Schedule(0, 8, 3, 0.3)
    steps, moved, fractions = trace("rigl", schedule, 10)
    assert steps == [0, 1, 2, 3, 3, 4, 5, 6, 6, 7], steps
    close(fractions, [0.3, 0.2074, 0.0439], 1e-4)
    for count, most in zip(moved, (15, 10, 2)):
        assert 0 < count <= most, moved
    for span, want in (((3, 7, 2), "11101101101"), ((1, 5, 3), "10111011111"), ((0, 4, 1), "01010101011")):
        steps, _, _ = trace("rigl", twin.Schedule(*span), len(want))
        assert [after - before for before, after in zip([0] + steps, steps)] == [int(bit) for bit in want], steps


def test_set_trace():
    """Reference 2.4: a step on every iteration, updates after steps 1, 4, 7."""
    steps, moved, fractions = trace("set", twin.Schedule(0, 8, 3, 0.3), 10)
    assert steps == list(range(1, 11)) and len(moved) == 3
    close(fractions, [0.2886, 0.15, 0.0114], 1e-4)


def test_rigl_example():
    """Reference 2.3's worked example: the update, the next Nesterov step, and the scaled-slot variant."""
    l2, twin.L2 = twin.L2, 0.0
    try:
        schedule = twin.Schedule(0, 1000, 100, 0.5)
        state = one_layer_state(W, M, V, schedule)
        state = twin.mask_update(state, (G,), "rigl", schedule, jax.random.key(0), noise_std=0.0)
        assert int(state.step) == 0 and int(state.last) == 0
        close(state.masks[0], [[1, 0, 1, 1], [0, 1, 1, 0], [1, 1, 1, 0]])
        close(state.weights[0], [[0.9, -0.05, 0, 0.7], [-0.3, 0, -0.8, 0.1], [0, -0.15, 0.5, -0.35]])
        close(state.weight_slots[0], [[1, 2, 0, 4], [5, 0, 7, 8], [0, 10, 11, 12]])
        state = twin.gradient_step(state, (G,), (), 0.1)
        after = [[0.8, -0.212, -0.171, 0.319], [-0.705, -0.152, -1.367, -0.548], [-0.133, -0.77, -0.467, -1.322]]
        close(state.weights[0], after)
        close(state.weight_slots[0], [[1, 1.8, 0.9, 3.9], [4.5, 0.8, 6.3, 7.2], [0.7, 8, 10.3, 10.8]])
        weight, _, slot = twin.update_layer(W, M, V, np.abs(M * W), np.abs(G), jnp.float32(0.5), G / 10, G * 0.5)
        close([weight[0, 2], weight[1, 1], weight[2, 0]], [0.09, 0.08, 0.07])
        close([slot[0, 2], slot[1, 1], slot[2, 0]], [0.45, 0.40, 0.35])
    finally:
        twin.L2 = l2


def test_selection_after_a_step():
    """Reference 2.5's data: a Nesterov step first, then the same selection with |0.1 G| as grow score."""
    l2, twin.L2 = twin.L2, 0.0
    try:
        state = one_layer_state(W, M, V, twin.Schedule(0, 1000, 100, 0.5))
        state = twin.gradient_step(state, (G,), (), 0.1)
        weight = np.asarray(state.weights[0])
        moved = twin.update_layer(weight, M, V, np.abs(M * weight), np.abs(0.1 * G), jnp.float32(0.5))
        close(moved[1], [[1, 0, 1, 0], [1, 1, 1, 0], [1, 1, 0, 1]])
    finally:
        twin.L2 = l2


def test_ties_and_full_layers():
    """Equal scores go to the lower index; a layer without zeros does not change."""
    close(twin.top_k_mask(jnp.asarray([1.0, 2, 2, 2, 0]), 2), [0, 1, 1, 0, 0])
    full = np.ones_like(M)
    weight, mask, slot = twin.update_layer(W, full, V, np.abs(W), np.abs(G), jnp.float32(0.3))
    close(mask, full), close(weight, W), close(slot, V)


def numpy_step(weights, biases, slots, bias_slots, masks, images, labels, rate):
    """One training step by hand in float64."""
    hidden, activations = images, [images]
    for layer in range(3):
        hidden = hidden @ (masks[layer] * weights[layer]) + biases[layer]
        hidden = np.maximum(hidden, 0) if layer < 2 else hidden
        activations.append(hidden)
    delta = np.exp(hidden - hidden.max(1, keepdims=True))
    delta /= delta.sum(1, keepdims=True)
    delta[np.arange(len(labels)), labels] -= 1
    delta /= len(labels)
    for layer in (2, 1, 0):
        dense = activations[layer].T @ delta
        bias_gradient = delta.sum(0)
        delta = delta @ (masks[layer] * weights[layer]).T * (activations[layer] > 0)
        gradient = masks[layer] * dense + 1e-4 * weights[layer]
        slots[layer] = 0.9 * slots[layer] + gradient
        weights[layer] = weights[layer] - rate * (gradient + 0.9 * slots[layer])
        bias_slots[layer] = 0.9 * bias_slots[layer] + bias_gradient
        biases[layer] = biases[layer] - rate * (bias_gradient + 0.9 * bias_slots[layer])


def test_training_steps():
    """Five steps of the real network against float64 NumPy with hand-written gradients."""
    random = np.random.RandomState(0)
    images = random.uniform(size=(500, 784)).astype(np.float32)
    labels = random.randint(10, size=500).astype(np.int32)
    state = twin.initial_state("scratch", 0, 100)
    weights, biases, slots, bias_slots, masks = (
        [np.asarray(value, np.float64) for value in values]
        for values in (state.weights, state.biases, state.weight_slots, state.bias_slots, state.masks)
    )
    order = np.arange(500).reshape(5, 100)
    for batch in order:
        numpy_step(weights, biases, slots, bias_slots, masks, images[batch].astype(np.float64), labels[batch], 0.2)
    state, _ = twin.train_epoch(state, images, labels, order, jax.random.key(0), "scratch", twin.Schedule())
    for got, want in zip(state.weights + state.biases + state.weight_slots, weights + biases + slots):
        close(got, want, 2e-5)


def test_learning_rate():
    """Reference 4.4: divided by 3 after the boundary step, not at it."""
    for dense, step, want in (
        (False, 45000, 0.2), (False, 45001, 0.2 / 3), (False, 57001, 0.2 / 9),
        (True, 36000, 0.2), (True, 36001, 0.2 / 3), (True, 42001, 0.2 / 9), (True, 48001, 0.2 / 27),
    ):
        close(twin.learning_rate(jnp.int32(step), dense), want, 1e-7)


def run():
    """Every check; prints one line each and returns the exit status."""
    tests = {name: test for name, test in sorted(globals().items()) if name.startswith("test_")}
    failed = 0
    for name, test in tests.items():
        try:
            test()
            print("ok    ", name)
        except AssertionError as error:
            failed += 1
            print("FAILED", name, error)
    print(f"{len(tests) - failed} of {len(tests)} passed")
    return int(failed > 0)

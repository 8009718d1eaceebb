"""Changes CIFAR images in NumPy as the reference has it (4.3), given where, and compares: augment.py FILE."""

import sys

import numpy as np
from safetensors.numpy import load_file

arrays = load_file(sys.argv[1])
images = arrays["pixels"].astype(np.float64)
for image, top, left, flipped, ours in zip(
    images, arrays["top"], arrays["left"], arrays["flipped"], arrays["augmented"], strict=True
):
    image = (image - image.mean()) / max(image.std(), 1 / np.sqrt(image.size))
    padded = np.pad(image, ((4, 4), (4, 4), (0, 0)), mode="symmetric")
    cropped = padded[top : top + 32, left : left + 32]
    theirs = cropped[:, ::-1] if flipped else cropped
    assert np.abs(ours - theirs).max() < 1e-5
assert 0 < arrays["flipped"].sum() < len(images) and len(set(zip(arrays["top"].tolist(), arrays["left"].tolist()))) > 10
print(f"{len(images)} images")

"""AdamW and learning rates beside PyTorch's: torch_optimizers.py FILE."""

import sys

import numpy as np
import torch
from safetensors.torch import load_file

found = load_file(sys.argv[1])

weights = torch.nn.Parameter(found["start"].clone())
optimizer = torch.optim.AdamW([weights], lr=0.01, betas=(0.9, 0.95), eps=1e-3, weight_decay=0.1)
for gradient, expected in zip(found["gradients"], found["weights"]):
    weights.grad = gradient.clone()
    optimizer.step()
    difference = (weights - expected).abs().max()
    assert difference < 1e-6, difference

for name in ("cosine", "linear"):
    base, warmup, total = 0.3, 10, 100
    optimizer = torch.optim.SGD([weights], lr=base)
    rise = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: step / warmup)
    if name == "cosine":
        fall = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total - warmup)
    else:
        fall = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total - warmup)
    schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [rise, fall], [warmup])
    rates = []
    for _ in range(total):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert np.allclose(found[name].numpy(), rates, atol=1e-6), (name, found[name], rates)

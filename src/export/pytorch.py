"""Builds a network that `rigl-xla export --format pytorch` wrote: network = load("net.safetensors").

A network takes uint8 pixels, channels last, or prepared float images, channels first as usual. Masks are
parametrizations, so training keeps the sparsity.
"""

import json

import torch
from safetensors import safe_open
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrize


class Masked(nn.Module):
    def __init__(self, mask):
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight):
        return torch.where(self.mask, weight, 0.0)


def pad(x, pads, value=0.0):
    (top, bottom), (left, right) = pads
    return functional.pad(x, (left, right, top, bottom), value=value) if top or bottom or left or right else x


class Network(nn.Module):
    def __init__(self, description, arrays):
        super().__init__()
        self.description, self.parts = description, nn.ModuleDict()
        for step in description["steps"]:
            name, module = step.get("kernel") or step.get("scope"), None
            if step["step"] == "conv":
                height, width, inputs, outputs = step["dims"]
                sizes = (inputs * step["groups"], outputs, (height, width), tuple(step["strides"]))
                module = nn.Conv2d(*sizes, groups=step["groups"], bias=False)
            elif step["step"] == "dense":
                module = nn.Linear(*step["dims"], bias=False)
            elif step["step"] == "norm":
                module = nn.BatchNorm2d(step["channels"], eps=1e-5)
            elif step["step"] == "bias":
                self.register_parameter(step["bias"], nn.Parameter(arrays[step["bias"]]))
            elif step["step"] == "columns":
                self.register_buffer(step["indices"], arrays[step["indices"]].long())
            if module is not None:
                for part in ("weight", "bias", "running_mean", "running_var"):
                    if f"{name}.{part}" in arrays:
                        getattr(module, part).data.copy_(arrays[f"{name}.{part}"])
                if f"{name}.mask" in arrays:
                    parametrize.register_parametrization(module, "weight", Masked(arrays[f"{name}.mask"]))
                self.parts[name] = module

    def prepare(self, pixels):
        how, x = self.description["preprocessing"], pixels.float()
        if how["name"] == "mnist":
            x = x * how["scale"]
        elif how["name"] == "imagenet":
            x = (x - x.new_tensor(how["mean"])) * x.new_tensor(how["scale"])
        elif how["name"] == "cifar":
            axes = tuple(range(1, x.ndim))
            x = x - x.mean(axes, keepdim=True)
            x = x / (x * x).mean(axes, keepdim=True).sqrt().clamp(min=x[0].numel() ** -0.5)
        return x.permute(0, 3, 1, 2) if x.ndim == 4 else x

    def forward(self, images):
        values = [self.prepare(images) if images.dtype == torch.uint8 else images]
        for step in self.description["steps"]:
            kind, x = step["step"], values[step["inputs"][0]]
            if kind == "conv":
                x = self.parts[step["kernel"]](pad(x, step["pads"]))
            elif kind in ("dense", "norm"):
                x = self.parts[step.get("kernel") or step["scope"]](x)
            elif kind == "bias":
                bias = getattr(self, step["bias"])
                x = x + (bias[:, None, None] if x.ndim == 4 else bias)
            elif kind == "relu":
                x = functional.relu(x)
            elif kind == "min":
                x = x.clamp(max=step["limit"])
            elif kind == "add":
                x = x + values[step["inputs"][1]]
            elif kind == "max_pool":
                x = functional.max_pool2d(pad(x, step["pads"], -torch.inf), step["size"], step["strides"])
            elif kind == "mean":
                x = x.mean((2, 3))
            elif kind == "pixel":
                x = x[:, :, None, None]
            elif kind == "row":
                x = x.flatten(1)
            elif kind == "columns":
                x = x[:, getattr(self, step["indices"])]
            values.append(x)
        return values[-1]


def load(path):
    with safe_open(path, "pt") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}
        return Network(json.loads(file.metadata()["network"]), arrays).eval()

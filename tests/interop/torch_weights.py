"""Networks of torchvision and timm with random weights, and their logits: files for tests/interop_torch.rs.

torch_weights.py make FOLDER     writes NAME.safetensors, NAME-images.safetensors and NAME-logits.safetensors of each network
torch_weights.py check FOLDER    NAME-back.safetensors loads strictly and gives the same logits
"""

import sys

import timm
import torch
import torchvision
from safetensors.torch import load_file, save_file


def vgg(layers, batch_norm):
    """An eighth of the channels of VGG; torchvision's class fixes those of the classifier."""
    layers = [size if size == "M" else size // 8 for size in torchvision.models.vgg.cfgs[layers]]
    network = torchvision.models.VGG(torchvision.models.vgg.make_layers(layers, batch_norm), num_classes=11)
    network.classifier[0] = torch.nn.Linear(64 * 7 * 7, 512)
    network.classifier[3] = torch.nn.Linear(512, 512)
    network.classifier[6] = torch.nn.Linear(512, 11)
    return network


# Each with the height and width of its images.
NETWORKS = {
    "resnet18": (lambda: torchvision.models.resnet18(num_classes=10), 64),
    "resnet50": (lambda: torchvision.models.resnet50(), 224),
    "resnet101": (lambda: torchvision.models.resnet101(), 32),
    "timm-resnet50": (lambda: timm.create_model("resnet50", num_classes=7), 97),
    "mobilenet-v2": (lambda: torchvision.models.mobilenet_v2(), 224),
    "narrow-mobilenet-v2": (lambda: torchvision.models.mobilenet_v2(width_mult=0.35, num_classes=5), 96),
    "timm-mobilenet-v2": (lambda: timm.create_model("mobilenetv2_100"), 96),
    "vgg11": (lambda: vgg("A", False), 224),
    "vgg13-bn": (lambda: vgg("B", True), 224),
    "vgg16": (lambda: vgg("D", False), 80),
    "timm-vgg11-bn": (lambda: timm.create_model("vgg11_bn", num_classes=3), 64),
}


def network(name):
    torch.manual_seed(sum(map(ord, name)))
    network = NETWORKS[name][0]().eval()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.0)
                module.bias.uniform_(-0.3, 0.3)
                module.running_mean.uniform_(-0.3, 0.3)
                module.running_var.uniform_(0.7, 1.5)
                module.num_batches_tracked.fill_(3)
    return network


def main(task, folder, names):
    for name in names or NETWORKS:
        model = network(name)
        size = NETWORKS[name][1]
        if task == "make":
            save_file(model.state_dict(), f"{folder}/{name}.safetensors", metadata={"format": "pt"})
            images = torch.randn(2, 3, size, size)
            with torch.no_grad():
                logits = model(images)
            save_file({"images": images.permute(0, 2, 3, 1).contiguous()}, f"{folder}/{name}-images.safetensors")
            save_file({"logits": logits}, f"{folder}/{name}-logits.safetensors")
            continue
        back = load_file(f"{folder}/{name}-back.safetensors")
        before = model.state_dict()
        model.load_state_dict(back, strict=True)
        for key, value in before.items():
            assert key.endswith("num_batches_tracked") or torch.equal(value, back[key]), key
            assert value.dtype == back[key].dtype and value.shape == back[key].shape, key


main(sys.argv[1], sys.argv[2], sys.argv[3:])

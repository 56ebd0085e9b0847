"""Torchvision's architectures to classify, detect and segment, with random weights and small pictures."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torchvision
from converters.heavy.sweep import Case

PACKAGE = f"torchvision {torchvision.__version__.partition('+')[0]}, random weights"

# The most used first; sides that an architecture cannot do without are larger than the others'.
_CLASSIFIERS = (
    "resnet18 resnet50 mobilenet_v2 mobilenet_v3_small mobilenet_v3_large efficientnet_b0 squeezenet1_1 "
    "shufflenet_v2_x1_0 vit_b_16 densenet121 convnext_tiny swin_t alexnet vgg11 googlenet inception_v3 mnasnet1_0 "
    "regnet_y_400mf resnet34 regnet_x_400mf efficientnet_v2_s swin_v2_t maxvit_t resnext50_32x4d wide_resnet50_2 "
    "shufflenet_v2_x0_5 mnasnet0_5 squeezenet1_0 vgg11_bn resnet101 efficientnet_b1 efficientnet_b2 "
    "regnet_y_800mf regnet_x_800mf shufflenet_v2_x1_5 shufflenet_v2_x2_0 mnasnet0_75 mnasnet1_3 vgg16 vgg13 "
    "vgg13_bn vgg16_bn densenet169 densenet161 densenet201 resnet152 efficientnet_b3 efficientnet_b4 "
    "convnext_small swin_s swin_v2_s vit_b_32 regnet_y_1_6gf regnet_x_1_6gf regnet_y_3_2gf regnet_x_3_2gf vgg19 "
    "vgg19_bn wide_resnet101_2 resnext101_32x8d resnext101_64x4d efficientnet_b5 efficientnet_v2_m convnext_base "
    "swin_b swin_v2_b regnet_y_8gf regnet_x_8gf efficientnet_b6 vit_l_32 vit_l_16 efficientnet_b7 "
    "efficientnet_v2_l convnext_large regnet_y_16gf regnet_x_16gf regnet_x_32gf regnet_y_32gf "
).split()
_SIDES = {"inception_v3": 96, "maxvit_t": 224, "alexnet": 96, "squeezenet1_0": 64, "vit_b_16": 64, "vit_b_32": 64}
_SIDES |= dict.fromkeys(("vit_l_16", "vit_l_32"), 64)
_SEGMENTATION = (
    "lraspp_mobilenet_v3_large deeplabv3_mobilenet_v3_large fcn_resnet50 deeplabv3_resnet50 fcn_resnet101 "
    "deeplabv3_resnet101 "
).split()
_DETECTION = (
    "ssdlite320_mobilenet_v3_large fasterrcnn_mobilenet_v3_large_320_fpn retinanet_resnet50_fpn "
    "fasterrcnn_resnet50_fpn ssd300_vgg16 fcos_resnet50_fpn maskrcnn_resnet50_fpn keypointrcnn_resnet50_fpn "
    "fasterrcnn_mobilenet_v3_large_fpn fasterrcnn_resnet50_fpn_v2 retinanet_resnet50_fpn_v2 "
    "maskrcnn_resnet50_fpn_v2 "
).split()


def cases() -> list[Case]:
    """All of them: small and popular first, the families in turn."""
    classifiers = [_case(name, partial(classifier, name), _SIDES.get(name, 64)) for name in _CLASSIFIERS]
    segmentation = [_case(name, partial(segmenter, name), 64) for name in _SEGMENTATION]
    detection = [_case(name, partial(detector, name), 96, "1", " in 0..1") for name in _DETECTION]
    return [*classifiers[:9], *segmentation[:2], *detection[:2], *classifiers[9:19], *segmentation[2:4],
            *detection[2:6], *classifiers[19:], *segmentation[4:], *detection[6:]]  # fmt: skip


def _case(name: str, make: Callable[[], Any], side: int, batch: str = "batch", values: str = "") -> Case:
    return Case(PACKAGE, name, make, {"options": {"inputs": f"x:float32[{batch},3,{side},{side}]{values}"}})


def classifier(name: str) -> Any:
    """A classifier of ten classes whose activations neither vanish nor explode."""
    torch.manual_seed(0)
    more: dict[str, Any] = {"aux_logits": False, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
    if name.startswith("vit_"):
        more["image_size"] = _SIDES[name]
    made = torchvision.models.get_model(name, weights=None, num_classes=10, **more)
    return settled(made)


def segmenter(name: str) -> Any:
    """Only the map of classes: the second head is for training."""
    torch.manual_seed(0)
    more = {} if "lraspp" in name else {"aux_loss": False}
    made = torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=5, **more)
    return settled(made)


class Detector(torch.nn.Module):
    """A detector for one picture: Torchvision's take a list of pictures, which no tensor of a dynamic batch is."""

    def __init__(self, model: Any):
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Boxes (found, 4), labels (found), scores (found), and the masks or key points of some."""
        [found] = self.model([x[0]])
        return tuple(found.values())


def detector(name: str) -> Any:
    """A detector of five classes, on pictures of the size that they are given in."""
    torch.manual_seed(0)
    more = {} if name.startswith("ssd") else {"min_size": 96, "max_size": 96}
    if "rcnn" in name:
        more |= {"rpn_post_nms_top_n_test": 100, "box_detections_per_img": 30}  # of 1000 and 100: time
    made = torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=5, **more)
    return Detector(spread(settled(made), list(torch.rand(2, 3, 96, 96))))


def settled(module: Any) -> Any:
    """`module` with statistics that are not those of a fresh batch norm, and without parts that give zero at first."""
    for part in module.modules():
        if getattr(part, "running_var", None) is not None:
            part.running_mean.uniform_(-0.1, 0.1)
            part.running_var.uniform_(0.5, 1.5)
        if isinstance(part, torch.nn.Linear) and not part.weight.any():
            torch.nn.init.normal_(part.weight, std=part.in_features**-0.5)
        if hasattr(part, "layer_scale"):  # ConvNeXt begins with 1e-6
            torch.nn.init.constant_(part.layer_scale, 0.3)
    return module.eval()


def spread(module: Any, feed: Any) -> Any:
    """`module` with random weights under which all layers say something about their input.

    A detector's fresh heads give all boxes the same score, and networks without statistics explode. So each layer's
    weights are divided, once, by the spread of what it gives for noise (arXiv:1511.06422).

    Args:
        module: changed in place.
        feed: what it is called with.
    """
    hooks = []
    for part in module.modules():
        if isinstance(part, (torch.nn.Conv2d, torch.nn.ConvTranspose2d, torch.nn.Linear)):
            if part.bias is not None:
                part.bias.data.clamp_(-0.5, 0.5)  # heads begin with improbable classes, and would find nothing
            hooks.append(part.register_forward_hook(_unit_spread()))
    with torch.no_grad():
        module(feed)
    for hook in hooks:
        hook.remove()
    return module


def _unit_spread() -> Callable[..., Any]:
    """A hook that scales a layer, at its first call, so that its outputs have variance 1 around its bias."""
    done = []

    def scale(part: Any, inputs: Any, output: Any) -> Any:
        if done or output.numel() < 2:
            return output
        done.append(True)
        bias = torch.zeros(()) if part.bias is None else part.bias
        bias = bias.reshape(-1, *[1] * (part.weight.ndim - 2)) if bias.ndim else bias
        spread = (output - bias).std().clamp(min=1e-6)
        part.weight.div_(spread)
        return (output - bias) / spread + bias

    return scale

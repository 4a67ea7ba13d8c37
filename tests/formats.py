"""Small classifiers in the files of other tools: ONNX written node by node, folders of transformers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from holdfast.cli import main

SIDE, CLASSES = 16, 5
SHAPE = (3, SIDE, SIDE)


def linear_onnx(
    path: Path,
    shape: tuple[int | str | None, ...] = ("batch", 3, 4, 4),
    kind: str = "float32",
    softmax: bool = False,
    name: str = "pixel_values",
    op: str = "Gemm",
    external: bool = False,
    seed: int = 0,
) -> nn.Module:
    """Write Flatten and Gemm, perhaps with Softmax; the same as a module, on images (3, 4, 4)."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weight = np.random.default_rng(seed).standard_normal((3, 48)).astype(kind)
    number = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "float64": TensorProto.DOUBLE}[kind]
    nodes = [
        helper.make_node("Flatten", [name], ["flat"]),
        helper.make_node(op, ["flat", "weight"], ["numbers"]),
    ]
    if op == "Gemm":
        nodes[1].attribute.append(helper.make_attribute("transB", 1))
    if softmax:
        nodes.append(helper.make_node("Softmax", ["numbers"], ["probabilities"]))
    output = helper.make_tensor_value_info("probabilities" if softmax else "numbers", number, [shape[0], 3])
    graph = helper.make_graph(
        nodes, "linear", [helper.make_tensor_value_info(name, number, shape)], [output],
        [numpy_helper.from_array(weight, "weight")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    settings: dict[str, Any] = {"save_as_external_data": True, "location": f"{path.stem}.bin", "size_threshold": 0}
    onnx.save_model(model, str(path), **(settings if external else {}))
    twin = nn.Sequential(nn.Flatten(), nn.Linear(48, 3, bias=False)).eval()
    twin[1].weight.data = torch.from_numpy(weight.astype("float32"))
    return twin


def transformer(kind: str, **more: Any) -> Any:
    """A small image classifier of transformers, with random weights, for images of SHAPE."""
    import transformers

    shared: dict[str, Any] = {"num_labels": CLASSES, **more}
    configs: dict[str, tuple[str, dict[str, Any]]] = {
        "resnet": ("ResNet", {"embedding_size": 8, "hidden_sizes": [8], "depths": [1], "layer_type": "basic"}),
        "vit": (
            "ViT",
            {
                "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8,
                "image_size": SIDE, "patch_size": 8,
            },
        ),
        "convnext": ("ConvNext", {"hidden_sizes": [8], "depths": [1], "patch_size": 4, "num_stages": 1}),
        "swin": (
            "Swin",
            {
                "image_size": SIDE, "patch_size": 4, "embed_dim": 8, "depths": [1], "num_heads": [2], "window_size": 2,
            },
        ),
    }  # fmt: skip
    name, settings = configs[kind]
    config = getattr(transformers, f"{name}Config")(**shared, **settings)
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}ForImageClassification")(config)
    for parameter in model.parameters():  # as they are made, all images get the same class
        parameter.data += 0.2 * torch.randn(parameter.shape)
    return model.eval()


def processor(folder: Path, **settings: Any) -> None:
    """Write the settings of an image processor."""
    usual = {
        "image_processor_type": "ViTImageProcessor", "do_resize": False, "do_rescale": True, "do_normalize": True,
        "rescale_factor": 1 / 255, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.25, 0.2],
        "size": {"height": SIDE, "width": SIDE}, "resample": 2,
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(usual | settings))


def one_line(args: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The command ends with status 2 and one line that says so."""
    with pytest.raises(SystemExit) as left:
        main(args)
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert re.search(message, said), said
    assert said.startswith("holdfast: ")
    assert said.count("\n") == 1, said

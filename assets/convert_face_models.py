# /// script
# requires-python = ">=3.11"
# dependencies = ["flatbuffers", "numpy", "onnx>=1.17", "tflite>=2.18"]
# ///
"""Convert the two face networks from TensorFlow Lite to ONNX; kept as a record, run once.

    python assets/convert_face_models.py face_landmark.tflite assets/face_landmark.onnx

The graph is rebuilt operator by operator in NCHW. Weights stay float16 as in the source, each
followed by a Cast that onnxruntime folds when it loads the file. PRelu becomes four simpler
operators with the same value; nothing is retrained or requantised.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import tflite
from onnx import TensorProto, helper, numpy_helper

OPSET, IR_VERSION = 17, 8
OPERATOR_NAMES = {
    code: name for name, code in vars(tflite.BuiltinOperator).items() if isinstance(code, int)
}
DTYPES = {tflite.TensorType.FLOAT16: np.float16, tflite.TensorType.INT32: np.int32}


class Converter:
    """Walks one TensorFlow Lite subgraph and collects the ONNX nodes."""

    def __init__(self, data: bytes) -> None:
        self.model = tflite.Model.GetRootAsModel(data, 0)
        self.graph = self.model.Subgraphs(0)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.halves: dict[int, np.ndarray] = {}  # dequantised tensor -> its float16 values

    def convert(self) -> onnx.ModelProto:
        for number in range(self.graph.OperatorsLength()):
            operator = self.graph.Operators(number)
            code = self.model.OperatorCodes(operator.OpcodeIndex())
            kind = OPERATOR_NAMES[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
            handler: Callable[..., None] = getattr(self, f"_{kind.lower()}")
            handler(operator, list(operator.InputsAsNumpy()), operator.Outputs(0))
        graph = helper.make_graph(
            self.nodes,
            "face",
            [self._value(i, nchw=True) for i in self.graph.InputsAsNumpy()],
            [self._value(i, nchw=len(self._shape(i)) == 4) for i in self.graph.OutputsAsNumpy()],
            self.weights,
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
        )
        onnx.checker.check_model(model, full_check=True)
        return model

    # One method per operator of the source.

    def _dequantize(self, _: object, inputs: list[int], output: int) -> None:
        self.halves[output] = self._constant(inputs[0])

    def _conv_2d(self, operator: object, inputs: list[int], output: int) -> None:
        options = self._options(operator, tflite.Conv2DOptions())
        weight = self.halves[inputs[1]].transpose(0, 3, 1, 2)  # O,H,W,I -> O,I,H,W
        self._conv(options, inputs, output, weight, group=1)

    def _depthwise_conv_2d(self, operator: object, inputs: list[int], output: int) -> None:
        options = self._options(operator, tflite.DepthwiseConv2DOptions())
        weight = self.halves[inputs[1]].transpose(3, 0, 1, 2)  # 1,H,W,C -> C,1,H,W
        self._conv(options, inputs, output, weight, group=len(weight))

    def _conv(self, options, inputs, output, weight, group: int) -> None:
        assert options.DilationHFactor() == options.DilationWFactor() == 1
        self._reject_activation(options)
        strides = [options.StrideH(), options.StrideW()]
        kernel = list(weight.shape[2:])
        names = [
            self._name(inputs[0]),
            self._half(f"w{output}", weight),
            self._half(f"b{output}", self.halves[inputs[2]]),
        ]
        pads = self._pads(options.Padding(), self._shape(inputs[0])[1:3], kernel, strides)
        self._node("Conv", names, output, kernel_shape=kernel, strides=strides, pads=pads,
                   group=group)  # fmt: skip

    def _max_pool_2d(self, operator: object, inputs: list[int], output: int) -> None:
        options = self._options(operator, tflite.Pool2DOptions())
        self._reject_activation(options)
        kernel = [options.FilterHeight(), options.FilterWidth()]
        strides = [options.StrideH(), options.StrideW()]
        pads = self._pads(options.Padding(), self._shape(inputs[0])[1:3], kernel, strides)
        self._node("MaxPool", [self._name(inputs[0])], output, kernel_shape=kernel,
                   strides=strides, pads=pads)  # fmt: skip

    def _add(self, operator: object, inputs: list[int], output: int) -> None:
        self._reject_activation(self._options(operator, tflite.AddOptions()))
        self._node("Add", [self._name(i) for i in inputs], output)

    def _relu(self, _: object, inputs: list[int], output: int) -> None:
        self._node("Relu", [self._name(inputs[0])], output)

    def _prelu(self, _: object, inputs: list[int], output: int) -> None:
        # relu(x) + slope * (x - relu(x)): the runtime runs these four in half the time of PRelu.
        value, result = self._name(inputs[0]), self._name(output)
        slope = self._half(f"s{output}", self.halves[inputs[1]].reshape(-1, 1, 1))
        self.nodes += [
            helper.make_node("Relu", [value], [f"{result}_above"]),
            helper.make_node("Sub", [value, f"{result}_above"], [f"{result}_below"]),
            helper.make_node("Mul", [f"{result}_below", slope], [f"{result}_bent"]),
            helper.make_node("Add", [f"{result}_above", f"{result}_bent"], [result]),
        ]

    def _pad(self, _: object, inputs: list[int], output: int) -> None:
        before, after = self._constant(inputs[1])[[0, 3, 1, 2]].T  # N,H,W,C -> N,C,H,W
        pads = self._weight(f"p{output}", np.concatenate([before, after]).astype(np.int64))
        self._node("Pad", [self._name(inputs[0]), pads], output, mode="constant")

    def _reshape(self, _: object, inputs: list[int], output: int) -> None:
        channels_last = f"{self._name(inputs[0])}_nhwc"
        self.nodes.append(
            helper.make_node(
                "Transpose", [self._name(inputs[0])], [channels_last], perm=[0, 2, 3, 1]
            )
        )
        shape = self._weight(f"r{output}", np.array(self._shape(output), np.int64))
        self._node("Reshape", [channels_last, shape], output)

    def _concatenation(self, operator: object, inputs: list[int], output: int) -> None:
        options = self._options(operator, tflite.ConcatenationOptions())
        self._node("Concat", [self._name(i) for i in inputs], output, axis=options.Axis())

    # Reading the source and writing the target.

    def _options(self, operator, options):
        table = operator.BuiltinOptions()
        options.Init(table.Bytes, table.Pos)
        return options

    def _reject_activation(self, options) -> None:
        assert options.FusedActivationFunction() == tflite.ActivationFunctionType.NONE

    def _pads(self, padding: int, size: list[int], kernel, strides) -> list[int]:
        if padding == tflite.Padding.VALID:
            return [0, 0, 0, 0]
        totals = [
            max((-(-length // stride) - 1) * stride + extent - length, 0)
            for length, extent, stride in zip(size, kernel, strides, strict=True)
        ]
        return [total // 2 for total in totals] + [total - total // 2 for total in totals]

    def _constant(self, index: int) -> np.ndarray:
        tensor = self.graph.Tensors(index)
        raw = self.model.Buffers(tensor.Buffer()).DataAsNumpy().tobytes()
        return np.frombuffer(raw, DTYPES[tensor.Type()]).reshape(self._shape(index))

    def _shape(self, index: int) -> list[int]:
        return self.graph.Tensors(index).ShapeAsNumpy().tolist()

    def _name(self, index: int) -> str:
        return self.graph.Tensors(index).Name().decode()

    def _value(self, index: int, nchw: bool) -> onnx.ValueInfoProto:
        shape = self._shape(index)
        shape = [shape[0], shape[3], *shape[1:3]] if nchw else shape
        return helper.make_tensor_value_info(self._name(index), TensorProto.FLOAT, shape)

    def _weight(self, name: str, values: np.ndarray) -> str:
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def _half(self, name: str, values: np.ndarray) -> str:
        self._weight(f"{name}_half", values)
        self.nodes.append(helper.make_node("Cast", [f"{name}_half"], [name], to=TensorProto.FLOAT))
        return name

    def _node(self, kind: str, inputs: list[str], output: int, **attributes: object) -> None:
        self.nodes.append(helper.make_node(kind, inputs, [self._name(output)], **attributes))


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:])
    target.write_bytes(Converter(source.read_bytes()).convert().SerializeToString())

"""A model as a file for other programs: safetensors and ONNX. Never pickle, which runs code.

The one doorway to `safetensors` and `onnx`. Both files carry the model card's JSON in their
metadata, so that a model does not travel without it.

safetensors: the tensors of the architecture's torch module, by their names there, as the 64-bit
floats that the model's digest is made of. ONNX: `features` (n, k), 32-bit floats scaled to [0, 1]
by the plan's columns (`models.features.scale`), to `logit` (n) and `probability` (n), in 32 bits
as the node's own scores are computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save

from privacy.errors import PrivacyError
from privacy.network import Dense, Network, Residual

Form = Literal["safetensors", "onnx"]
# Of 2022: what every current runtime reads.
OPSET = 17
IR_VERSION = 8
FEATURES, LOGIT, PROBABILITY = "features", "logit", "probability"


def to_safetensors(
    network: Network, parameters: NDArray[np.float64], metadata: Mapping[str, str]
) -> bytes:
    """A safetensors file. `parameters`: shape (d,), in the order of `Network.maps`."""
    tensors = dict(_tensors(network, parameters))
    data: bytes = save(tensors, dict(metadata))
    return data


def to_onnx(
    network: Network, parameters: NDArray[np.float64], metadata: Mapping[str, str]
) -> bytes:
    """An ONNX file, checked by onnx's own checker."""
    weights = {name: values.astype(np.float32) for name, values in _tensors(network, parameters)}
    nodes, last = _nodes(network)
    nodes.append(helper.make_node("Squeeze", [last, "axis"], [LOGIT]))
    nodes.append(helper.make_node("Sigmoid", [LOGIT], [PROBABILITY]))
    initial = [numpy_helper.from_array(values, name) for name, values in weights.items()]
    initial.append(numpy_helper.from_array(np.array([1], dtype=np.int64), "axis"))
    graph = helper.make_graph(
        nodes,
        "fedtags",
        [helper.make_tensor_value_info(FEATURES, TensorProto.FLOAT, ["n", network.inputs])],
        [
            helper.make_tensor_value_info(LOGIT, TensorProto.FLOAT, ["n"]),
            helper.make_tensor_value_info(PROBABILITY, TensorProto.FLOAT, ["n"]),
        ],
        initial,
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="fedtags"
    )
    model.ir_version = IR_VERSION
    helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model, full_check=True)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def _tensors(
    network: Network, parameters: NDArray[np.float64]
) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """Each tensor of the torch module by its name: a map's weight (outputs, inputs), its bias."""
    if parameters.shape != (network.parameters_count,):
        raise PrivacyError("the vector does not have the network's number of parameters")
    taken = 0
    for name, tensor in network.module().named_parameters():
        shape = tuple(tensor.shape)
        count = int(np.prod(shape))
        yield name, np.ascontiguousarray(parameters[taken : taken + count].reshape(shape))
        taken += count


def _nodes(network: Network) -> tuple[list[onnx.NodeProto], str]:
    """The layers as ONNX nodes over tensors of the same names, and the last one's output."""
    nodes: list[onnx.NodeProto] = []
    at, place = FEATURES, 0  # torch numbers a layer and its ReLU apart

    def affine(inputs: str, name: str) -> str:
        out = f"{name}.out"
        sources = [inputs, f"{name}.weight", f"{name}.bias"]
        nodes.append(helper.make_node("Gemm", sources, [out], transB=1))
        return out

    def apply(kind: str, *inputs: str) -> str:
        out = f"{inputs[-1]}.{kind.lower()}"
        nodes.append(helper.make_node(kind, list(inputs), [out]))
        return out

    for layer in network.layers:
        name = f"layers.{place}"
        if isinstance(layer, Residual):
            change = affine(apply("Relu", affine(at, f"{name}.first")), f"{name}.second")
            at = apply("Add", at, change)
        else:
            assert isinstance(layer, Dense)
            at = affine(at, name)
            if layer.relu:
                at, place = apply("Relu", at), place + 1
        place += 1
    return nodes, at

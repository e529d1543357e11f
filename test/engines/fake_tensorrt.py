# SPDX-License-Identifier: Apache-2.0
"""A stand-in for TensorRT's package, to fail as TensorRT fails and otherwise compute with torch.

What it knows of TensorRT: the names that the package offers, that None and False stand for
failure, that the reason goes to the logger, and that an execution reads and writes the memory
whose addresses it was given. A plan of it is a text that says how wrong it computes.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field
from enum import Enum
from math import prod
from typing import Any

import torch
from torch import Tensor

from tracker_ros.engines.graph import Graph

MAGIC = b"fake plan "


class Severity(Enum):
    ERROR = 1
    WARNING = 2
    INFO = 3


class ILogger:
    def log(self, severity: Severity, message: str) -> None:
        raise AssertionError("the package's logger must be overridden")


@dataclass
class FakeTensorRT:
    """The package.

    Args:
        graph: What its plans compute.
        faults: Any of "no builder", "parse", "no plan", "no engine", "no context", "no address",
            "other tensors", "half".
        errors: Relative error that each further plan computes with; 0 where it ends.
        drift: Relative error that every plan computes with besides.
        executions: How many succeed in all; None for all.
        device: Whose memory the addresses are of, "cpu" or "cuda".
        version: Of the package.
        typed: Whether networks must be asked to be strongly typed.
    """

    graph: Graph
    faults: set[str] = field(default_factory=set)
    errors: list[float] = field(default_factory=list)
    drift: float = 0.0
    executions: int | None = None
    device: str = "cpu"
    version: str = "10.3.0"
    typed: bool = True
    built: int = 0
    run: int = 0
    flags: list[int] = field(default_factory=list)
    streams: list[int] = field(default_factory=list)

    ILogger = ILogger

    def __post_init__(self) -> None:
        self.__name__, self.__version__ = "tensorrt", self.version

        class Flags(int, Enum):
            pass

        # TensorRT 10 knows both; 11 has dropped the batch and need not know the types either.
        names = {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1} if self.typed else {}
        self.NetworkDefinitionCreationFlag = Flags("Flags", names) if names else object
        self.MemoryPoolType = Enum("MemoryPoolType", "WORKSPACE")
        self.BuilderFlag = Enum("BuilderFlag", "TF32")
        self.DataType = Enum("DataType", "FLOAT HALF INT64 BOOL")

    def __hash__(self) -> int:
        return id(self)

    def Builder(self, logger: ILogger) -> Any:  # noqa: N802
        return None if "no builder" in self.faults else _Builder(self, logger)

    def OnnxParser(self, network: _Network, logger: ILogger) -> _Parser:  # noqa: N802
        return _Parser(self)

    def Runtime(self, logger: ILogger) -> _Runtime:  # noqa: N802
        return _Runtime(self, logger)


@dataclass
class _Network:
    flags: int


@dataclass
class _Parser:
    trt: FakeTensorRT
    num_errors: int = 0

    def parse(self, onnx: bytes) -> bool:
        self.num_errors = int("parse" in self.trt.faults)
        return not self.num_errors

    def get_error(self, index: int) -> str:
        return "In node 7: operator Wobble is unknown"


class _Config:
    def set_memory_pool_limit(self, pool: Enum, size: int) -> None:
        assert size > 0

    def clear_flag(self, flag: Enum) -> None:
        assert flag.name == "TF32"


@dataclass
class _Builder:
    trt: FakeTensorRT
    logger: Any

    def create_network(self, flags: int) -> _Network:
        self.trt.flags.append(flags)
        return _Network(flags)

    def create_builder_config(self) -> _Config:
        return _Config()

    def build_serialized_network(self, network: _Network, config: _Config) -> bytes | None:
        if "no plan" in self.trt.faults:
            self.logger.log(Severity.ERROR, "could not find any implementation for node 3")
            return None
        error = self.trt.errors[self.trt.built] if self.trt.built < len(self.trt.errors) else 0.0
        self.trt.built += 1
        return MAGIC + repr(error).encode()


@dataclass
class _Runtime:
    trt: FakeTensorRT
    logger: Any

    def deserialize_cuda_engine(self, plan: bytes) -> _Plan | None:
        if "no engine" in self.trt.faults or not plan.startswith(MAGIC):
            self.logger.log(Severity.ERROR, "the plan was made by version 10.2.0")
            return None
        return _Plan(self.trt, self.logger, float(plan[len(MAGIC) :]))


@dataclass
class _Plan:
    trt: FakeTensorRT
    logger: Any
    error: float

    def __post_init__(self) -> None:
        spec = self.trt.graph.spec
        self.tensors = {**spec.inputs, **spec.outputs}
        if "other tensors" in self.trt.faults:
            self.tensors.popitem()
        self.num_io_tensors = len(self.tensors)

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.tensors[name].shape

    def get_tensor_dtype(self, name: str) -> Enum:
        half = "half" in self.trt.faults and name in self.trt.graph.spec.outputs
        kinds = {"float32": "HALF" if half else "FLOAT", "int64": "INT64", "bool": "BOOL"}
        return self.trt.DataType[kinds[self.tensors[name].dtype]]

    def create_execution_context(self) -> _Context | None:
        if "no context" in self.trt.faults:
            self.logger.log(Severity.ERROR, "out of memory")
            return None
        return _Context(self)


@dataclass
class _Context:
    plan: _Plan
    addresses: dict[str, int] = field(default_factory=dict)

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return "no address" not in self.plan.trt.faults

    def execute_async_v3(self, stream: int) -> bool:
        trt, spec = self.plan.trt, self.plan.trt.graph.spec
        trt.run += 1
        trt.streams.append(stream)
        if trt.executions is not None and trt.run > trt.executions:
            self.plan.logger.log(Severity.ERROR, "an illegal memory access was encountered")
            return False
        memory = {
            name: self._tensor(name, on_gpu=trt.device == "cuda") for name in self.plan.tensors
        }
        with torch.no_grad():
            results = trt.graph.module(*(memory[name] for name in spec.inputs))
        for name, result in zip(spec.outputs, results, strict=True):
            memory[name].copy_(result * (1 + self.plan.error + trt.drift))
        return True

    def _tensor(self, name: str, on_gpu: bool) -> Tensor:
        """The memory at a tensor's address."""
        shape, kind = self.plan.get_tensor_shape(name), self.plan.get_tensor_dtype(name).name
        dtypes = {"FLOAT": torch.float32, "HALF": torch.float16, "INT64": torch.int64}
        dtype = dtypes[kind]
        if on_gpu:
            codes = {"FLOAT": "<f4", "HALF": "<f2", "INT64": "<i8"}
            interface = {"shape": shape, "typestr": codes[kind], "version": 3}
            interface["data"] = (self.addresses[name], False)
            holder = type("Memory", (), {"__cuda_array_interface__": interface})()
            return torch.as_tensor(holder, device="cuda")
        size = prod(shape) * torch.empty((), dtype=dtype).element_size()
        block = (ctypes.c_char * size).from_address(self.addresses[name])
        return torch.frombuffer(block, dtype=dtype).view(shape)

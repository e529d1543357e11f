# SPDX-License-Identifier: Apache-2.0
"""Parameters as tables: default, range, meaning, and when each may change.

rclpy's own checks name a type by its number and know no choices, so parameters are declared with
dynamic typing (which also lets ``5`` stand for ``5.0``) and checked here, in words.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.exceptions import InvalidParameterValueException
from rclpy.node import Node
from rclpy.parameter import Parameter

from tracker_ros.nodes.run import NodeStartError

__all__ = ["Change", "ParameterError", "ParameterSpec", "ParameterTable", "Value"]

Value = bool | int | float | str
_WORDS = {bool: "true or false", int: "an integer", float: "a number", str: "a string"}


class ParameterError(ValueError):
    """A value is refused; the message names parameter, value and what was wanted."""


class Change(Enum):
    """When a parameter may change; the value is what its description says of it."""

    RUNNING = "may change at any time"
    UNCONFIGURED = "may change while the node is unconfigured (cleanup, set, configure)"
    START = "is read once, when the node starts"


@dataclass(frozen=True)
class ParameterSpec:
    """One parameter.

    Attributes:
        name: Its name.
        default: Its default, which also gives the type.
        description: What it does, for ``ros2 param describe``.
        low: Least accepted number, or None.
        high: Greatest accepted number, or None.
        choices: Accepted strings; empty accepts any.
        change: When it may change.
        check: Further check of one value: returns what was wanted, or an empty string.
    """

    name: str
    default: Value
    description: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    change: Change = Change.RUNNING
    check: Callable[[Value], str] | None = None

    @property
    def wanted(self) -> str:
        """What values are accepted, in words."""
        if self.choices:
            return "one of " + ", ".join(f"'{c}'" for c in self.choices)
        text = _WORDS[type(self.default)]
        if self.low is not None and self.high is not None:
            text += f" from {self.low:g} to {self.high:g}"
        elif self.low is not None:
            text += f", {self.low:g} or more"
        return text

    def checked(self, value: object) -> Value:
        """The value in the parameter's type.

        Raises:
            ParameterError: The value has another type or is out of range.
        """
        kind = type(self.default)
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            named = "unset" if value is None else f"{value!r}"
            raise ParameterError(f"parameter {self.name} is {named}, wanted {self.wanted}")
        good = not self.choices or value in self.choices
        if isinstance(value, (int, float)):
            low = -math.inf if self.low is None else self.low
            high = math.inf if self.high is None else self.high
            good = math.isfinite(value) and low <= value <= high
        complaint = (self.wanted if not good else "") or (self.check(value) if self.check else "")
        if complaint:
            raise ParameterError(f"parameter {self.name} is {value!r}, wanted {complaint}")
        return value

    def descriptor(self) -> ParameterDescriptor:
        """Description and range for the ROS tools."""
        result = ParameterDescriptor(
            name=self.name,
            description=f"{self.description} Default: {self.default!r}; {self.change.value}.",
            additional_constraints=f"wanted: {self.wanted}",
            dynamic_typing=True,
        )
        if self.low is not None and self.high is not None:
            if isinstance(self.default, float):
                result.floating_point_range.append(
                    FloatingPointRange(from_value=float(self.low), to_value=float(self.high))
                )
            else:
                result.integer_range.append(
                    IntegerRange(from_value=int(self.low), to_value=int(self.high))
                )
        return result


class ParameterTable:
    """Declares a table of parameters on a node, keeps their values and guards their changes.

    Args:
        node: The node.
        specs: The table.
        cross_check: Gets all values together; raises ParameterError if they do not fit.
        configured: Whether the node is configured, that is whether UNCONFIGURED parameters are
            fixed now.
        changed: Called with all values after an accepted change at run time.

    Raises:
        NodeStartError: A value given at start is refused.
    """

    def __init__(
        self,
        node: Node,
        specs: Sequence[ParameterSpec],
        cross_check: Callable[[Mapping[str, Value]], None] = lambda values: None,
        configured: Callable[[], bool] = lambda: False,
        changed: Callable[[Mapping[str, Value]], None] = lambda values: None,
    ) -> None:
        self._specs = {spec.name: spec for spec in specs}
        self._cross_check = cross_check
        self._configured = configured
        self._changed = changed
        self._values: dict[str, Value] = {}
        try:
            for spec in specs:
                given = node.declare_parameter(spec.name, spec.default, spec.descriptor())
                self._values[spec.name] = spec.checked(given.value)
            cross_check(self._values)
        except (ParameterError, InvalidParameterValueException) as error:
            raise NodeStartError(
                f"{error}: correct the params file, launch argument or command line"
            ) from error
        node.add_on_set_parameters_callback(self._on_set)

    @property
    def values(self) -> Mapping[str, Value]:
        """All values by name."""
        return dict(self._values)

    def text(self, name: str) -> str:
        """Value of a string parameter."""
        return str(self._values[name])

    def number(self, name: str) -> float:
        """Value of a number, whether it was given as integer or not."""
        return float(self._values[name])

    def integer(self, name: str) -> int:
        """Value of an integer."""
        return int(self._values[name])

    def flag(self, name: str) -> bool:
        """Value of a boolean."""
        return bool(self._values[name])

    def _on_set(self, parameters: list[Parameter]) -> SetParametersResult:
        """Accept all of a change or nothing."""
        values = dict(self._values)
        try:
            for parameter in parameters:
                spec = self._specs.get(parameter.name)
                if spec is None:
                    continue
                value = spec.checked(parameter.value)
                self._check_moment(spec, value)
                values[spec.name] = value
            self._cross_check(values)
        except ParameterError as error:
            return SetParametersResult(successful=False, reason=str(error))
        if values != self._values:
            self._values = values
            self._changed(values)
        return SetParametersResult(successful=True)

    def _check_moment(self, spec: ParameterSpec, value: Value) -> None:
        if value == self._values[spec.name] or spec.change is Change.RUNNING:
            return
        if spec.change is Change.UNCONFIGURED and not self._configured():
            return
        remedy = (
            "give it when the node is started"
            if spec.change is Change.START
            else "clean the node up, set it, and configure the node again"
        )
        raise ParameterError(
            f"parameter {spec.name} cannot become {value!r} now, it {spec.change.value}: {remedy}"
        )

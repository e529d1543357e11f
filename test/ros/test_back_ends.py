# SPDX-License-Identifier: Apache-2.0
"""The node's parameters for engines, and what it says of the choice."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.ros


def test_an_engine_that_may_not_be_built_is_refused(make_probe, run_program, tmp_path):
    arguments = ("backend:=onnxruntime", "build_engine:=false", f"engine_cache_dir:={tmp_path}")
    parameters = [word for argument in arguments for word in ("-p", argument)]
    run_program("track", "--ros-args", "-r", "__ns:=/refusing", *parameters)
    probe = make_probe("/refusing")
    words = "'template' is not exported in fp32"
    probe.until(lambda: any(words in log.msg for log in probe.logs), "a log")
    assert not list(tmp_path.rglob("*.onnx"))


def test_the_choice_of_a_back_end_is_told(run_program, make_probe, tmp_path):
    process = run_program(
        "track", "--ros-args", "-r", "__ns:=/choosing", "-p", f"engine_cache_dir:={tmp_path}"
    )
    probe = make_probe("/choosing")
    probe.until(lambda: "ostrack_tiny runs on " in process.output, "the choice", timeout_s=60.0)
    assert "exporting ostrack_tiny for ONNX Runtime, once" in process.output
    assert " ms in torch and " in process.output
    assert list(tmp_path.rglob("track-*.onnx"))

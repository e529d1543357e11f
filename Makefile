# SPDX-License-Identifier: Apache-2.0
# `make` lists what there is.

.DEFAULT_GOAL := help
.PHONY: help setup demo console test kilted soak lint format shell media accuracy docs clean

# Test processes: each takes up to 2 GiB of memory.
WORKERS ?= $(shell cores=$$(nproc); echo $$((cores < 4 ? cores : 4)))

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: ## Build the development environment in .dev/ (two minutes; nothing to do the second time)
	@dev/setup

demo: setup ## Follow a pedestrian through the ROS graph: out/demo.mp4, out/demo.png, out/demo.json
	@dev/run python -m tools.demo.run_demo $(ARGS)

test: setup ## Run the tests, as many at once as WORKERS says; ARGS="..." goes to pytest
	@dev/browser >/dev/null
	@dev/run python -m pytest -n $(WORKERS) --dist loadgroup --no-loadscope-reorder --costs=out/test_costs.json $(ARGS)

# Tests on ROS 2 Kilted: lifecycle, topics, services and their refusals, launch and the programs.
KILTED_TESTS ?= $(addprefix test/ros/test_,lifecycle.py following.py refusals.py launch.py programs.py images.py)

kilted: setup ## Build ROS 2 Kilted beside Jazzy and run ROS tests on it; KILTED_TESTS=test/ros runs all of them
	@dev/setup --distro kilted
	@dev/run --distro kilted python -m pytest -n $(WORKERS) --dist loadgroup --no-loadscope-reorder $(KILTED_TESTS)

console: setup ## Open the console on the demo's footage: http://127.0.0.1:8060/
	@dev/run python -m tools.demo.run_console $(ARGS)

soak: setup ## Drive the node through everything that goes wrong on a robot; ARGS="--minutes 2"
	@dev/run python -m tools.soak $(ARGS)

lint: setup ## Check style, types and spelling
	@dev/run ruff check
	@dev/run ruff format --check
	@dev/run mypy
	@dev/run codespell

format: setup ## Format the code and sort its imports
	@dev/run ruff check --fix
	@dev/run ruff format

shell: setup ## Open a shell in which ros2 and the package's programs work
	@dev/run bash --rcfile dev/shellrc || true

media: setup ## Run the demo and renew the README's pictures and its demo numbers
	@dev/run python -m tools.demo.run_demo --media docs/media $(ARGS)
	@dev/run python -m tools.measured

accuracy: setup ## Measure on SEQUENCES=folder; renew docs/accuracy.md and the README's table
	@dev/run tracker-ros evaluate $(SEQUENCES) --models ostrack_tiny grm_tiny trdimp_tiny trsiam_tiny mast_tiny csrt kcf mil \
		--out out/evaluation --markdown docs/accuracy.md
	@dev/run python -m tools.measured

docs: setup ## Generate config/track.yaml and the tables of the documents from the code
	@dev/run python -m tools.generate

clean: ## Remove the development environment and all results
	rm -rf .dev out build install log

# `make` or `make help` lists the targets: each one's text stands behind its ##.
.DEFAULT_GOAL := help
PYTHON ?= python3
PROTO := proto/isthmus/v1/analyzer.proto

.PHONY: help
help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /|/' | awk -F'|' '{printf "  %-10s %s\n", $$1, $$2}'

.PHONY: setup
setup:  ## install everything for development into the current environment
	$(PYTHON) -m pip install -c constraints.txt -e '.[dev]'

.PHONY: test
test:  ## the normal suite
	$(PYTHON) -m pytest

.PHONY: test-slow
test-slow:  ## what takes minutes: 100,000 damaged streams, 1,000,000 frames on a bad link, 2,000 rooms
	$(PYTHON) -m pytest -m slow

.PHONY: lint
lint:  ## style and format of the code, without changing it
	ruff check
	ruff format --check

.PHONY: types
types:  ## mypy, strict on all but bench/ and tests/
	mypy

.PHONY: proto
proto:  ## generate shared/wire from the .proto
	mkdir -p build/proto
	$(PYTHON) -m grpc_tools.protoc -Iproto \
		--python_out=build/proto --pyi_out=build/proto --grpc_python_out=build/proto $(PROTO)
	# Under the file name that clients generate from, so that their stubs and ours may meet in one process.
	for stub in analyzer_pb2.py analyzer_pb2.pyi analyzer_pb2_grpc.py; do \
		sed 's/^from isthmus\.v1 import/from shared.wire import/; s/isthmus\.v1\.analyzer_pb2/shared.wire.analyzer_pb2/' \
			build/proto/isthmus/v1/$$stub > shared/wire/$$stub; \
	done

.PHONY: demo
demo:  ## a cloud and an edge on this machine, sample rooms through both
	isthmus demo

.PHONY: sbom
sbom:  ## what is installed, as CycloneDX, into build/sbom.cdx.json
	$(PYTHON) -m venv build/sbom-tool
	build/sbom-tool/bin/pip install -q cyclonedx-bom==7.5.0
	build/sbom-tool/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
		--output-format JSON --output-file build/sbom.cdx.json "$$($(PYTHON) -c 'import sys; print(sys.executable)')"

.PHONY: clean
clean:  ## remove what tests, tools and the demo leave behind (not runs/, not data/)
	rm -rf isthmus-demo build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.git/*' -not -path './.venv/*' -prune -exec rm -rf {} +

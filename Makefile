# `make` lists the targets. Each is a line or two.
.DEFAULT_GOAL := help
.PHONY: help repro test test-slow test-gpu lint format types check docs dist pictures lock docker clean

help: ## Print this help
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

repro: ## Run the pipeline: download, split, train, evaluate, report
	uv run dvc repro

test: ## Run the fast tests that need no GPU
	uv run pytest

test-slow: ## Run the tests that take more than ten seconds each
	OMP_NUM_THREADS=1 uv run pytest -m "slow and not gpu" -n 2 --dist loadfile

test-gpu: ## Run the tests that need a CUDA device
	uv run pytest -m gpu

lint: ## Check style
	uv run ruff check
	uv run ruff format --check

format: ## Fix style
	uv run ruff check --fix
	uv run ruff format

types: ## Check types
	uv run mypy

check: lint types test ## Everything that must pass before a commit

docs: ## Build the documentation's site in site/
	NO_MKDOCS_2_WARNING=1 uv run --group docs mkdocs build --strict --quiet

dist: ## Build the packages in dist/ and check what they say of themselves
	rm -rf dist
	uv build --quiet --all-packages
	uvx twine check --strict dist/*

pictures: ## Copy the pictures of the demo into docs/, for the README
	cp data/report/validation.png docs/training.png
	cp data/report/ndcg.png docs/metrics_at_k.png

lock: ## Write requirements.lock after a change of the date in pyproject.toml or of a dependency
	rm -f uv.lock # it would bring back older resolutions
	uv export --quiet --no-header --no-annotate --no-emit-workspace --python 3.11 --output-file requirements.lock

docker: ## Build the images
	docker build -t cutrec .
	docker build -t cutrec-serve -f Dockerfile.serve .

clean: ## Remove the outputs of the stages and the checkpoints of killed runs; git and DVC can restore recorded outputs
	git clean -fdXq data
	rm -rf .checkpoints

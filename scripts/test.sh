#!/usr/bin/env bash
# Runs everything that guards main: installs what is missing (npm packages, a Vulkan adapter, OpenBLAS), then
# types, lint, formatting, API reference and all tests on every device. Ends with one line: N passed, N failed.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/install.sh"
source scripts/run-tests.sh
bash scripts/setup-vulkan.sh
bash scripts/setup-blas.sh
npm run --silent check
npm run --silent lint
npm run --silent docs
run_tests "$@"

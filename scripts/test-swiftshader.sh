#!/usr/bin/env bash
# Runs all tests of the WebGPU device on SwiftShader, the software Vulkan driver that comes with Chromium:
# another compiler than lavapipe's, subgroups of 4, no shader-f16, subnormals taken for zero. What it
# lacks is skipped by name. Installs Debian's chromium where it is missing (as root). Arguments: test files.
# An hour or more on two cores; ends with one line: N passed, N failed, N skipped.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/install.sh"
source scripts/run-tests.sh

icd=/usr/lib/chromium/vk_swiftshader_icd.json
if [ ! -f "$icd" ]; then
  [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || {
    echo "test-swiftshader: no $icd; run as root on Debian, or: apt-get install chromium libvulkan1" >&2
    exit 1
  }
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends chromium libvulkan1 >/dev/null
fi
export VK_DRIVER_FILES=$icd VK_ICD_FILENAMES=$icd ZO2_TEST_ADAPTER=SwiftShader

# It is some five times slower than lavapipe. Tests that name the cpu alone have nothing to do with it.
export TEST_FILE_LIMIT_MS=3600000
RERUN_ARGUMENTS=(--testTimeout=900000 --hookTimeout=900000 "--testNamePattern=^(?!.*on '?cpu|'cpu')")
if [ $# -gt 0 ]; then
  files=("$@")
else
  mapfile -t files < <(grep -rlE 'helpers/(adapter|devices|needs|parity|webgpu)|full-disk-run' test --include='*.test.ts' | sort)
fi
run_tests "${files[@]}" "${RERUN_ARGUMENTS[@]}"

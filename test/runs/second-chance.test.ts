// scripts/run-tests.sh: files whose worker died are run once more, no more than two of them and no more
// than once, and the last line of stdout counts all. Vitest is a stand-in here.
// Alone: npx vitest run test/runs/second-chance.test.ts

import { spawnSync } from 'node:child_process'
import { expect, it } from 'vitest'
import { ROOT } from '../helpers/cli.ts'

/** Runs `run_tests all` with a vitest that does `first`, then `second`. */
function runTests(first: string, second: string) {
  const script = `set -euo pipefail
    source scripts/run-tests.sh
    RERUN_ARGUMENTS=(--more)
    run_vitest() {
      echo "run $*" >&2
      if [ -n "\${PASSED_BEFORE:-}" ]; then ${second}; else ${first}; fi
    }
    run_tests all`
  const { status, stdout, stderr } = spawnSync('bash', ['-c', script], {
    cwd: ROOT,
    encoding: 'utf8',
  })
  return { status, last: stdout.trimEnd().split('\n').at(-1), said: stderr.trimEnd().split('\n') }
}

const died = (...files: string[]) =>
  `printf '%s\\n' 40 ${files.join(' ')} >"$DEAD_MODULES"; return 1`
const passes = 'echo "$((PASSED_BEFORE + 5)) passed, 0 failed"'

it('runs nothing again where all passed', () => {
  const ended = runTests('echo 45 passed, 0 failed', 'exit 9')
  expect(ended).toEqual({ status: 0, last: '45 passed, 0 failed', said: ['run all'] })
})

it('runs nothing again where a test failed', () => {
  const ended = runTests('echo 44 passed, 1 failed; return 1', 'exit 9')
  expect(ended).toEqual({ status: 1, last: '44 passed, 1 failed', said: ['run all'] })
})

it.each([[['a.test.ts']], [['a.test.ts', 'b.test.ts']]])(
  'runs %j once more, and counts what passed before',
  (files) => {
    const names = files.join(' ')
    expect(runTests(died(...files), passes)).toEqual({
      status: 0,
      last: '45 passed, 0 failed',
      said: [
        'run all',
        `a worker process died in ${names}: running these files once more`,
        `run ${names} --more`,
      ],
    })
  },
)

it('fails the second time, and says which files', () => {
  const ended = runTests(died('a.test.ts'), 'echo 40 passed, 1 failed; return 1')
  expect(ended).toMatchObject({ status: 1, last: '40 passed, 1 failed' })
  expect(ended.said.at(-1)).toBe('run twice, and not passed: a.test.ts')
})

it('fails at once where more than two files need it, and says which', () => {
  expect(runTests(died('a', 'b', 'c'), 'exit 9')).toEqual({
    status: 1,
    last: '40 passed, 3 failed',
    said: ['run all', 'worker processes died in more than 2 files: a b c'],
  })
})

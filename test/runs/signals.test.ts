// SIGINT and SIGTERM: what is under way is finished, and the run goes on later; and two runs that want one
// folder.
// Alone: npx vitest run test/runs/signals.test.ts

import { readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { hostname } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { cli, makeFolder, seen, startCli } from '../helpers/cli.ts'
import { differences, finish, outcome, prepare, runArgs } from '../helpers/crash.ts'

const home = makeFolder()
beforeAll(() => prepare(home))
afterAll(() => rmSync(home, { recursive: true, force: true }))

const linesOf = (path: string) => readFileSync(path, 'utf8').split('\n').slice(0, -1)

/** A run long enough to be stopped. */
const longArgs = (name: string) => [...runArgs(home, name), '--steps', '100000']

describe('a signal', () => {
  it('ends a run after the step under way, to be resumed as if nothing had happened', async () => {
    await finish(runArgs(home, 'reference'))
    for (const [signal, code] of [
      ['SIGINT', 130],
      ['SIGTERM', 143],
    ] as const) {
      const running = startCli([...runArgs(home, signal), '--json'])
      await seen(running, 'step  3/24')
      running.child.kill(signal)
      const ended = await running.finished
      expect(ended.code).toBe(code)
      expect(ended.stderr).toContain(`${signal}: finishing what is under way`)
      const summary = JSON.parse(ended.stdout) as Record<string, unknown>
      const steps = linesOf(join(home, signal, 'journal.jsonl')).length
      expect(summary).toMatchObject({ stopped: true, steps, model_dir: null })
      expect(linesOf(join(home, signal, 'metrics.jsonl'))).toHaveLength(steps)
      expect(readdirSync(join(home, signal)).filter((name) => /^\.|lock/.test(name))).toEqual([])
      await finish([...runArgs(home, signal), '--resume'])
      const of = (name: string) => outcome(join(home, name))
      expect(differences(of('reference'), of(signal))).toEqual([])
    }
  })

  it('ends start-up, evaluation and the writing of the model soon', async () => {
    for (const text of ['zo2 0', 'plan: ', 'eval step 24']) {
      const args = runArgs(home, 'early')
      const running = startCli([...args, ...(text.startsWith('eval') ? ['--resume'] : [])])
      await seen(running, text)
      running.child.kill('SIGINT')
      const { code, stdout } = await running.finished
      // The model may have been whole before the signal came.
      expect(code).toBe(130)
      expect(stdout).toMatch(/^(stopped|done) after (0|24) steps/)
    }
  })

  it('ends the process at once when it comes twice', async () => {
    const running = startCli(longArgs('twice'))
    await seen(running, 'step      3/100000')
    running.child.kill('SIGTERM')
    running.child.kill('SIGINT')
    const { code } = await running.finished
    expect([130, 143]).toContain(code)
    const { stdout } = await cli([...runArgs(home, 'twice'), '--resume', '--json', '--quiet'])
    expect(JSON.parse(stdout)).toMatchObject({ stopped: false, steps: 24 })
  })

  it('ends the other commands too', async () => {
    const generate = ['generate', runArgs(home, '')[1]!, '--device', 'cpu', '--threads', '1']
    const running = startCli([...generate, '--prompt', 'To be', '--max-new-tokens', '400'])
    await seen(running, 'device cpu')
    running.child.kill('SIGINT')
    expect(await running.finished).toMatchObject({ code: 130, stdout: '' })
  })
})

describe('one output folder', () => {
  it('is refused to a second run while the first lives, and not after it was killed', async () => {
    const first = startCli(longArgs('shared'))
    await seen(first, 'step      2/100000')
    for (const more of [[], ['--resume']]) {
      const second = await cli([...longArgs('shared'), ...more, '--quiet'])
      expect(second).toMatchObject({ code: 1, stdout: '' })
      expect(second.stderr).toMatch(
        new RegExp(`^zo2: .*shared is in use by another run \\(process ${first.child.pid} .*\\n$`),
      )
    }
    first.child.kill('SIGKILL')
    await first.finished
    const before = linesOf(join(home, 'shared/journal.jsonl')).length
    const third = await cli([...runArgs(home, 'shared'), '--steps', `${before + 1}`, '--resume'])
    expect(third.code).toBe(0)
    expect(third.stderr).toContain(`resuming at step ${before} of ${before + 1}`)
  })

  it('is free when the process number in its lock belongs to somebody else by now', async () => {
    const dir = join(home, 'reference')
    const lock = { pid: process.pid, host: hostname(), started: 'long ago' }
    writeFileSync(join(dir, 'run.lock'), JSON.stringify(lock))
    await finish([...runArgs(home, 'reference'), '--resume'])
    writeFileSync(join(dir, 'run.lock'), '')
    await finish([...runArgs(home, 'reference'), '--resume'])
  })

  it('goes to one of several that find a dead lock at the same time', async () => {
    const dir = join(home, 'race')
    await finish([...runArgs(home, 'race'), '--steps', '1'])
    const lock = { pid: 2 ** 22 + 1, host: hostname(), started: '1' }
    writeFileSync(join(dir, 'run.lock'), JSON.stringify(lock))
    const args = [...longArgs('race'), '--resume']
    const all = [startCli(args), startCli(args), startCli(args)]
    const refused = await Promise.all(
      all.map((running) => Promise.race([running.finished, seen(running, 'step      4/')])),
    )
    const winners = all.filter((_, i) => !refused[i])
    for (const { child } of winners) child.kill('SIGKILL')
    await Promise.all(all.map(({ finished }) => finished))
    expect(winners).toHaveLength(1)
    for (const ended of refused) expect(ended?.stderr ?? 'in use').toContain('in use')
  })
})

// A vitest reporter that ends the output with one plain line, "N passed, N failed", for whatever
// reads the log, and that lets no test file hang for ever: a native call that never returns (a
// software Vulkan driver's, say) stops every timeout of its worker process, so after LIMIT_MS
// ($TEST_FILE_LIMIT_MS) the process is described and killed from here. Files whose worker died, with no
// test failed, are listed in the file $DEAD_MODULES for run-tests.sh to run once more; $PASSED_BEFORE is
// added to the line. A suite that could not be loaded counts as one failure. Tests that were skipped for
// a reason are counted too, by reason, where there are any.

import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { relative } from 'node:path'
import type { Reporter, TestModule } from 'vitest/node'

/** The longest file takes about a minute on two quiet cores. */
const LIMIT_MS = Number(process.env['TEST_FILE_LIMIT_MS'] ?? 360_000)
const CHECK_MS = 5_000

export default class ClosingLine implements Reporter {
  readonly #started = new Map<string, number>()
  readonly #killed = new Set<string>()
  #timer: NodeJS.Timeout | undefined

  onTestRunStart(): void {
    this.#timer = setInterval(() => this.#watch(), CHECK_MS).unref()
  }

  onTestModuleQueued(module: TestModule): void {
    this.#started.set(module.moduleId, Date.now())
  }

  onTestModuleEnd(module: TestModule): void {
    this.#started.delete(module.moduleId)
  }

  onTestRunEnd(modules: readonly TestModule[], errors: readonly unknown[]): void {
    clearInterval(this.#timer)
    let [passed, failed] = [Number(process.env['PASSED_BEFORE'] ?? 0), errors.length]
    const dead: string[] = []
    const skipped = new Map<string, number>()
    for (const module of modules) {
      const results = [...module.children.allTests()].map((test) => test.result())
      const tests = results.map(({ state }) => state)
      for (const result of results) {
        const reason = result.state === 'skipped' ? result.note : undefined
        if (reason !== undefined) skipped.set(reason, (skipped.get(reason) ?? 0) + 1)
      }
      const own = tests.filter((state) => state === 'failed').length
      if (this.#started.has(module.moduleId) && own === 0) {
        dead.push(relative(process.cwd(), module.moduleId))
        continue
      }
      passed += tests.filter((state) => state === 'passed').length
      failed += own
      if (module.state() === 'failed' && own === 0) failed++
    }
    if (dead.length > 0) failed = Math.max(failed, dead.length)
    const list = process.env['DEAD_MODULES']
    // The errors are the workers' own deaths if there is one for each.
    const onlyDeaths = failed === dead.length && errors.length <= dead.length
    if (list && dead.length > 0 && onlyDeaths) {
      writeFileSync(list, [passed, ...dead].join('\n'))
      return
    }
    const reasons = [...skipped].map(([reason, count]) => `${count} skipped: ${reason}\n`)
    const count = [...skipped.values()].reduce((sum, each) => sum + each, 0)
    const more = count > 0 ? `, ${count} skipped` : ''
    // After the default reporter's own summary.
    process.on('exit', () =>
      process.stdout.write(`${reasons.join('')}${passed} passed, ${failed} failed${more}\n`),
    )
  }

  #watch(): void {
    for (const [id, since] of this.#started) {
      if (Date.now() - since < LIMIT_MS || this.#killed.has(id)) continue
      this.#killed.add(id)
      const pid = workerSince(since)
      const file = relative(process.cwd(), id)
      process.stderr.write(`${file} has run for ${LIMIT_MS / 1000} s: killing its worker ${pid}\n`)
      if (pid === undefined) continue
      process.stderr.write(describe(pid))
      process.kill(pid, 'SIGKILL')
    }
  }
}

const read = (path: string): string => {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return '' // the process, or this file of it, is gone
  }
}

/** The child of this process that was started last before `since`: each file has its own (Linux). */
function workerSince(since: number): number | undefined {
  const ticksPerSecond = 100
  const bootMs = Date.now() - Number(read('/proc/uptime').split(' ')[0]) * 1000
  const children = readdirSync('/proc').flatMap((name) => {
    const stat = read(`/proc/${name}/stat`)
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    if (!/^\d+$/.test(name) || Number(fields[1]) !== process.pid) return []
    if (!read(`/proc/${name}/cmdline`).includes('vitest')) return []
    return [{ pid: Number(name), startMs: bootMs + (Number(fields[19]) * 1000) / ticksPerSecond }]
  })
  const before = children.filter(({ startMs }) => startMs <= since + 1000)
  return before.sort((a, b) => b.startMs - a.startMs)[0]?.pid
}

/** What each thread of the process waits in. */
function describe(pid: number): string {
  const tasks = `/proc/${pid}/task`
  return readdirSync(tasks)
    .map((tid) => {
      const [comm, wchan] = ['comm', 'wchan'].map((file) => read(`${tasks}/${tid}/${file}`).trim())
      const state = /^State:\s*(.*)$/m.exec(read(`${tasks}/${tid}/status`))?.[1]
      return `  thread ${tid} ${comm}: ${state}, in ${wchan}\n`
    })
    .join('')
}

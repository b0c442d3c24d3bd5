// A vitest reporter that ends the output with one plain line, "N passed, N failed", for whatever
// reads the log. A suite that could not be loaded counts as one failure.

import type { Reporter, TestModule } from 'vitest/node'

export default class ClosingLine implements Reporter {
  onTestRunEnd(modules: readonly TestModule[], errors: readonly unknown[]): void {
    let [passed, failed] = [0, errors.length]
    for (const module of modules) {
      const tests = [...module.children.allTests()].map((test) => test.result().state)
      passed += tests.filter((state) => state === 'passed').length
      failed += tests.filter((state) => state === 'failed').length
      if (module.state() === 'failed' && !tests.includes('failed')) failed++
    }
    // After the default reporter's own summary.
    process.on('exit', () => process.stdout.write(`${passed} passed, ${failed} failed\n`))
  }
}

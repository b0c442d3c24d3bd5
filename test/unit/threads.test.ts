// Threads of a checkout: its TypeScript, through tsx, which no other test starts (test/helpers/threads.ts).
// Alone: npx vitest run test/unit/threads.test.ts

import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { promisify } from 'node:util'
import { expect, it } from 'vitest'
import { ROOT } from '../helpers/compiled.ts'

const script = `
  import { createFoldPool } from ${JSON.stringify(pathToFileURL(join(ROOT, 'src/weights/fold-pool.ts')))}
  import { NoisePool } from ${JSON.stringify(pathToFileURL(join(ROOT, 'src/device/cpu/noise-pool.ts')))}
  const pool = createFoldPool(1)
  const memory = new SharedArrayBuffer(4096)
  await pool.fold({
    source: { synthetic: true, offsetBytes: 0 }, dtype: 'F32', first: 0, count: 1024, cols: 512,
    change: { kind: 'dense', terms: [] },
    target: { memory, offsetBytes: 0 },
  })
  await pool.close()
  const noise = new NoisePool(1, () => Promise.reject(new Error('nothing is only widened here')))
  const recipe = { noise: 'gaussian', terms: [], probe: { k0: 1, k1: 2 }, scales: [0.5] }
  const raw = new Uint8Array(memory)
  noise.reserve(1, 1024)
  const [version] = await noise.submit({ raw, dtype: 'F32', first: 0, count: 1024, recipe }).versions
  const weights = new Float32Array(memory)
  console.log(weights.some((w) => w !== 0), version.some((w, i) => w !== weights[i]))
  await noise.close()
`

it('run the TypeScript of a checkout', async () => {
  const args = ['--import', 'tsx', '--input-type=module', '-e', script]
  const { stdout } = await promisify(execFile)(process.execPath, args, { cwd: ROOT })
  expect(stdout).toBe('true true\n')
})

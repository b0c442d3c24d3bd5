// Errors in runs by the library, a full disk among them, and threads that are ended in mid-fold:
// afterwards the device's ledger is at zero, no file is open and no thread is left. The same of an
// engine's single parts is in error-ledger.test.ts. Alone: npx vitest run test/runs/error-runs.test.ts

import { execFile } from 'node:child_process'
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { describe, expect, it } from 'vitest'
import { IGNORED } from '../../src/data/types.ts'
import { fromPretrained, ZOTrainer, type Example } from '../../src/index.ts'
import { TEST_ADAPTER } from '../helpers/adapter.ts'
import { ROOT, SHAKESPEARE, SMALL } from '../helpers/cli.ts'
import { compiled } from '../helpers/compiled.ts'
import { callsIn, watched } from '../helpers/file-calls.ts'
import { leftovers } from '../helpers/leftovers.ts'
import { tempFolder } from '../helpers/runs.ts'

/** Folder of the library as the command line has it: without a compiler in each process. */
const LIBRARY = join(compiled(), 'src')
const home = tempFolder()
const boom = new Error('boom')
let runs = 0

describe('fold threads that are ended while they fold', () => {
  it('keep the process until they are gone, and reject what they have not done', async () => {
    const job = `{
      source: { synthetic: true, offsetBytes: 0 }, dtype: 'F32', first: 0, count: 2 ** 18, cols: 512,
      change: { kind: 'dense', terms: [] },
      target: { memory: new SharedArrayBuffer(2 ** 20), offsetBytes: 0 },
    }`
    const script = `
      import { createFoldPool } from ${JSON.stringify(join(LIBRARY, 'weights/fold-pool.js'))}
      for (let round = 0; round < 15; round++) {
        const pool = createFoldPool(1)
        await pool.fold(${job})
        const jobs = [1, 2, 3].map(() => pool.fold(${job}).then(() => 'done', String))
        await new Promise((resolve) => setTimeout(resolve, round % 5))
        await pool.close()
        const after = await pool.fold(${job}).catch(String)
        console.log([...(await Promise.all(jobs)), after].join())
      }`
    const program = join(home, 'folds.mjs')
    await writeFile(program, script)
    const { stdout } = await promisify(execFile)(process.execPath, [program])
    const lines = stdout.trimEnd().split('\n')
    expect(lines).toHaveLength(15)
    for (const line of lines) expect(line).toMatch(/^(done,)*(Error: the fold pool is closed,?)+$/)
  })
})

describe.each(['cpu', 'webgpu'] as const)('after an error on %s', (kind) => {
  const options = kind === 'cpu' ? { device: 'cpu' as const } : { adapter: TEST_ADAPTER }
  const events = [
    'onTrainBegin',
    'onStepBegin',
    'onStepEnd',
    'onLog',
    'onEvaluate',
    'onSave',
    'onTrainEnd',
  ] as const
  const examples = [4, 5, 6, 7].map((length) => {
    const inputIds = Array.from({ length }, (_, i) => 5 + 3 * i + length)
    return { inputIds, labels: [IGNORED, ...inputIds.slice(1)] } satisfies Example
  })

  it.each([...events, 'objective', 'compute_metrics', 'abort'])(
    'in %s of a run by the library nothing is left',
    async (where) => {
      const model = await fromPretrained(SMALL, { ...options, threads: 1 })
      const dir = join(home, `run-${runs++}`)
      const stop = new AbortController()
      let calls = 0
      /** Throws the second time, if there is one. */
      const fails = (): never[] => {
        if (where === 'onStepEnd' || where === 'objective' ? ++calls < 2 : false) return []
        throw boom
      }
      const listens = events.some((event) => event === where)
      const trainer = new ZOTrainer({
        model,
        trainDataset: examples,
        evalDataset: examples,
        signal: stop.signal,
        args: {
          outputDir: dir,
          maxSteps: 4,
          saveSteps: 2,
          evalStrategy: 'steps',
          evalSteps: 2,
          replayWindow: 1,
          disableTqdm: true,
          perDeviceTrainBatchSize: 2,
          reportTo: 'none',
        },
        ...(where === 'objective' && {
          objective: { of: 'losses' as const, score: () => (fails(), [1, 2]) },
        }),
        ...(where === 'compute_metrics' && { computeMetrics: fails as never }),
        callbacks: [
          listens ? { [where]: fails } : {},
          { onStepEnd: () => (where === 'abort' ? stop.abort() : undefined) },
        ],
      })
      const done = trainer.train().then(({ stopped }) => (stopped ? 'stopped' : 'done'), String)
      expect(await done).toBe(where === 'abort' ? 'stopped' : 'Error: boom')
      await model.close()
      expect(model.device.ledger.total()).toBe(0)
      expect(await leftovers(home)).toEqual([])
    },
  )

  it('of a full disk nothing is left', async () => {
    const text = join(home, 'train.txt')
    await writeFile(text, (await readFile(join(SHAKESPEARE, 'train.txt'), 'utf8')).slice(0, 2000))
    /** Runs the program with a disk that is full from the n-th write on. */
    const run = async (name: string, n?: number) => {
      const dir = join(home, `${kind}-${name}`)
      await mkdir(dir)
      const script = join(compiled(), 'test/helpers/full-disk-run.js')
      const args = [script, join(LIBRARY, 'index.js'), SMALL, text, dir]
      if (kind === 'webgpu') args.push(TEST_ADAPTER)
      const { stdout } = await promisify(execFile)(process.execPath, args, {
        cwd: ROOT,
        env: { ...process.env, ...watched(dir, `${dir}.log`, n) },
      })
      const result = JSON.parse(stdout) as Record<string, unknown>
      expect(Object.values(result['bytes']!).every((bytes) => bytes === 0)).toBe(true)
      expect(result).toMatchObject({ left: [] })
      return {
        said: String(result['said']),
        heldBytes: Number(result['heldBytes']),
        writes: callsIn(dir, `${dir}.log`),
      }
    }
    const room = await run('room')
    expect(room).toMatchObject({ said: '' })
    expect(room.heldBytes).toBeGreaterThan(2 ** 20)
    const count = room.writes.filter(({ what }) => !what.startsWith('fold')).length
    for (const part of kind === 'cpu' ? [0.05, 0.2, 0.4, 0.6, 0.8, 0.97] : [0.3, 0.7]) {
      const { said } = await run(`full-${part}`, Math.ceil(part * count))
      expect(said).toMatch(/free (some|space)|disk/)
    }
  })
})

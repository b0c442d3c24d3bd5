// The work and the table of record-disk.sh: raw reads, the stream alone, and training in turns.

import { execFileSync } from 'node:child_process'
import { constants, writeFileSync } from 'node:fs'
import { open, stat } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { createSlots } from '../scheduler/slots.ts'
import type { Slab } from '../scheduler/plan.ts'
import { stream } from '../scheduler/stream.ts'
import type { BenchResult } from '../src/plan/bench.ts'
import { parseConfig } from '../src/config/options.ts'
import { evenTexts, packTexts } from '../src/data/packing.ts'
import { shapeOf } from '../src/engine/split.ts'
import { createEngine } from '../src/engine/engine.ts'
import { silent } from '../src/util/console.ts'
import { designOf } from '../src/engine/open.ts'
import { loadModel } from '../src/engine/load.ts'
import { alignedBytes } from '../src/io/direct.ts'
import { cacheRoomBytes } from '../src/weights/page-cache.ts'
import { DTYPE_BYTES } from '../src/util/dtypes.ts'
import { fakeDevice } from '../test/helpers/fake-device.ts'

const [dir, rounds = '3', steps = '3', ...flags] = process.argv.slice(2)
const WORK = { method: 'lozo', batchSize: 1, maxLength: 8, memory: '1GiB' }
const ARGS = ['--method', 'lozo', '--batch-size', '1', '--max-length', '8', '--memory', '1GiB']
const OUT = 'out/record-disk.jsonl'
const [CHUNK_BYTES, READS] = [8 * 2 ** 20, 3]

interface Rate {
  readonly bytes: number
  readonly diskBytes: number
  readonly ms: number
}

async function timed(body: () => Promise<number>): Promise<Rate> {
  const [before, started] = [process.resourceUsage().fsRead, performance.now()]
  const bytes = await body()
  const ms = performance.now() - started
  return { bytes, diskBytes: (process.resourceUsage().fsRead - before) * 512, ms }
}

/** All files from first to last byte, past the page cache. */
const raw = (files: readonly string[]) =>
  timed(async () => {
    let [bytes, expected] = [0, 0]
    for (const path of files) {
      const { size } = await stat(path)
      expected += size
      const file = await open(path, constants.O_RDONLY | constants.O_DIRECT)
      let next = 0
      const read = async (into: Uint8Array) => {
        for (let at = next; at < size; at = next) {
          next += CHUNK_BYTES
          const { bytesRead } = await file.read(into, 0, CHUNK_BYTES, at)
          bytes += bytesRead
        }
      }
      await Promise.all(lanes.map(read)).finally(() => file.close())
    }
    if (bytes !== expected) throw new Error(`${bytes} bytes were read of ${expected}`)
    return bytes
  })
const lanes = Array.from({ length: READS }, () => alignedBytes(CHUNK_BYTES))

const config = parseConfig({ device: 'cpu', resident: 'none', steps: Number(steps), ...WORK })
const loaded = await loadModel(dir!, config, silent)
const { checkpoint } = loaded
const state = { checkpoint, updates: [], folded: 0, scratchDir: tmpdir() }
const { device, use } = fakeDevice(Infinity)
const unlimited = { ...device, memory: { ...device.memory, maxSlabBytes: Infinity } }
const engine = await createEngine(unlimited, { ...designOf(loaded, config, true), ...state })
const { plan } = engine.planFor(shapeOf(packTexts(evenTexts(WORK.batchSize, WORK.maxLength)), 2))
const slots = createSlots(plan, device)
const source = {
  describe({ name, rows, cols, tiles }: Slab) {
    const dtype = engine.store.dtype(name)
    const weights = { name, dtype, cols, tiles, recipe: { terms: [], scales: [0] } }
    const bytes = rows * cols * DTYPE_BYTES[dtype]
    return { bytes, readBytes: bytes, version: 0, weights }
  },
  read: (slab: Slab, into: Uint8Array) => engine.store.read(slab.name, slab.row0, into),
}

/** Every slab once, as a pass asks for them, and nothing done with them. */
const streamed = () =>
  timed(async () => {
    const counters = { readBytes: 0, uploadBytes: 0, waitMs: 0 }
    for await (const { slot } of stream(plan, slots, device, source, counters)) use(slot)
    return counters.readBytes
  })

/** The steps but the first, in which the page cache fills. */
function trained(): { result: BenchResult; rates: Rate[] } {
  const args = ['dist/src/cli/bin.js', 'bench', dir!, ...ARGS, '--device', 'cpu', '--steps', steps]
  const stdio: ['ignore', 'pipe', 'inherit'] = ['ignore', 'pipe', 'inherit']
  const text = execFileSync('node', [...args, ...flags, '--quiet', '--json'], { stdio })
  const result = JSON.parse(text.toString()) as BenchResult
  const rates = result.by_step.slice(1).map(({ ms, disk_bytes }) => {
    return { bytes: result.read_bytes, diskBytes: disk_bytes!, ms }
  })
  return { result, rates }
}

const median = (values: readonly number[]) => values.toSorted((a, b) => a - b)[values.length >> 1]!
const perSecond = (bytes: number, ms: number) => bytes / 1e6 / ms
const gb = (bytes: number) => `${(bytes / 1e9).toFixed(2)} GB`
const GB = (rate: number) => rate.toFixed(2)
const percent = (ratio: number) => `${Math.round(100 * ratio)} %`

const lines: object[] = []
const note = (what: string, round: number, rates: readonly Rate[], more: object = {}) => {
  for (const { bytes, diskBytes, ms } of rates) {
    lines.push({ what, round, bytes, disk_bytes: diskBytes, ms: Math.round(ms), ...more })
    process.stderr.write(
      `${what} ${gb(bytes)} (${gb(diskBytes)} of the disk) in ${(ms / 1000).toFixed(1)} s\n`,
    )
  }
  writeFileSync(OUT, lines.map((line) => `${JSON.stringify(line)}\n`).join(''))
}

const ratios = { stream: [] as number[][], training: [] as number[][] }
const rates = { raw: [] as number[], stream: [] as number[][], training: [] as number[][] }
const memory: number[][] = []
try {
  note('stream, first', 0, [await streamed()])
  for (let round = 1; round <= Number(rounds); round++) {
    const before = await raw(loaded.checkpoint.files)
    const alone = await streamed()
    const training = trained()
    const after = await raw(loaded.checkpoint.files)
    const { result } = training
    memory.push(result.by_step.map((step) => step.rss_bytes))
    note('raw', round, [before, after])
    note('stream', round, [alone])
    note('training', round, training.rates, { wait_ms: result.wait_ms, rss_bytes: memory.at(-1) })
    const disk = (perSecond(before.bytes, before.ms) + perSecond(after.bytes, after.ms)) / 2
    rates.raw.push(disk)
    for (const [what, some] of [
      ['stream', [alone]],
      ['training', training.rates],
    ] as const) {
      for (const { bytes, diskBytes, ms } of some) {
        const both = [perSecond(bytes, ms), perSecond(diskBytes, ms)]
        rates[what].push(both)
        ratios[what].push(both.map((rate) => rate / disk))
      }
    }
  }
} finally {
  await engine.close()
}

const out = (line: string) => process.stdout.write(`${line}\n`)
const at = (list: readonly number[][], i: number) => median(list.map((each) => each[i]!))
out('| | weights, GB/s | of raw | from the disk, GB/s | of raw |')
out('| --- | --- | --- | --- | --- |')
out(`| raw sequential read | ${GB(median(rates.raw))} | | ${GB(median(rates.raw))} | |`)
for (const what of ['stream', 'training'] as const) {
  const name =
    what === 'stream'
      ? 'stream, nothing computed'
      : `training, ${WORK.batchSize} x ${WORK.maxLength} tokens, ${WORK.method}`
  const cells = [0, 1].flatMap((i) => [GB(at(rates[what], i)), percent(at(ratios[what], i))])
  out(`| ${name} | ${cells.join(' | ')} |`)
}
out('\n| step | process memory | grown by |\n| --- | --- | --- |')
memory[0]!.forEach((_, i) => {
  const rss = at(memory, i)
  const grown = i === 0 ? '' : `${((rss - at(memory, i - 1)) / 1e6).toFixed(1)} MB`
  out(`| ${i + 1} | ${gb(rss)} | ${grown} |`)
})
const last = memory[0]!.length - 1
const slope = (at(memory, last) - at(memory, 1)) / (last - 1 || 1)
out(`\nFrom the second step on the process grew by ${(slope / 1e6).toFixed(1)} MB a step.`)
const total = (await Promise.all(loaded.checkpoint.files.map((file) => stat(file)))).reduce(
  (sum, { size }) => sum + size,
  0,
)
out(
  `${gb(total)} of files, room for ${gb(cacheRoomBytes())} in the page cache. Medians of ${rounds} rounds.`,
)

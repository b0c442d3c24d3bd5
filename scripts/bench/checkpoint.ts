// Random checkpoints of OPT's true shapes under .cache/bench/, written once: what benches read from
// the page cache, and what PyTorch loads. f16, N(0, 0.02), norms 1, biases 0, no tokenizer.

import { existsSync } from 'node:fs'
import { mkdir, rename, rm, writeFile } from 'node:fs/promises'
import { round16, stdOf } from '../../src/noise/distributions.ts'
import { noiseKey } from '../../src/noise/threefry.ts'
import { createNoiseKernel } from '../../src/noise/wasm.ts'
import { syntheticModel } from '../../src/engine/load.ts'
import { convertElements } from '../../src/util/dtypes.ts'
import { writeShardedSafetensors } from '../../src/checkpoint/safetensors-writer.ts'
import { note, ROOT } from './common.ts'

const STD = 0.02
/** Elements made at a time. */
const PIECE = 2 ** 22

/** The folder of a checkpoint such as 'opt-125m'; it is written if it is not there. */
export async function checkpoint(size: string): Promise<string> {
  const dir = `${ROOT}/.cache/bench/${size}`
  if (existsSync(dir)) return dir
  note(`writing ${dir}`)
  const unfinished = `${dir}.tmp`
  await rm(unfinished, { recursive: true, force: true })
  await mkdir(unfinished, { recursive: true })
  const { config, tensors } = syntheticModel({ size }).checkpoint
  await writeFile(`${unfinished}/config.json`, JSON.stringify(config))
  const specs = [...tensors.values()].map(({ name, shape }) => ({
    name,
    shape,
    dtype: 'F16' as const,
  }))
  const kernel = createNoiseKernel()
  await writeShardedSafetensors(unfinished, specs, async (index, sink) => {
    const { name, shape } = specs[index]!
    const count = shape.reduce((product, d) => product * d, 1)
    const centre = /norm\.weight$/.test(name) ? 1 : 0
    const coefficient = shape.length > 1 ? round16(STD / stdOf('gaussian')) : 0
    const terms = [{ ...noiseKey(0, 0, name, 'z'), coefficient, decay: 1 }]
    for (let first = 0; first < count; first += PIECE) {
      const values = new Float32Array(Math.min(PIECE, count - first))
      const start = new Uint8Array(new Float32Array(values.length).fill(centre).buffer)
      kernel.apply(start, 'F32', first, { noise: 'gaussian', terms, scales: [] }, [], values)
      await sink.write(convertElements(new Uint8Array(values.buffer), 'F32', 'F16'))
    }
  })
  await rename(unfinished, dir)
  return dir
}

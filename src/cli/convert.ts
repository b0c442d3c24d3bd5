// The command that rewrites checkpoints: convert.
// Formats are src/checkpoint's; nanoGPT's ckpt.pt and GGUF files are src/export's.

import { resolve } from 'node:path'
import { Command } from 'commander'
import { convertCheckpoint } from '../checkpoint/convert.ts'
import type { WrittenType } from '../checkpoint/gguf/write.ts'
import { loadModel } from '../engine/load.ts'
import { exportGguf } from '../export/gguf.ts'
import { convertNanogpt } from '../export/nanogpt.ts'
import { DTYPES } from '../util/dtypes.ts'
import { UserError } from '../util/errors.ts'
import { addOptions, configOf, sourceOf, type ContextOf, type Flags } from './flags.ts'

export function convertCommand(contextOf: ContextOf): Command {
  const command = new Command('convert')
    .description(
      "rewrite a checkpoint (.bin, safetensors, GGUF, nanoGPT's ckpt.pt) as a safetensors folder or a .gguf file, or a nanoGPT as ckpt.pt",
    )
    .argument('[model]', 'folder, file or hub id; left out with --synthetic')
    .argument('[out]', 'new folder, NAME.gguf or NAME.pt')
    .option('--to <type>', 'float32, float16, bfloat16, of a .gguf also q8_0 (default: as it is)')
  addOptions(command, 'convert')
  return command.action(async (first?: string, second?: string, flags: Flags = {}) => {
    const { report, result, stop } = contextOf(flags)
    const type = typeFlag(flags['to'])
    // With --synthetic the folder is the only argument.
    const config = configOf(flags, 'convert')
    const alone = config.synthetic !== undefined && second === undefined
    const [model, out] = alone ? [undefined, first] : [first, second]
    const source = sourceOf(model, config)
    if (out === undefined) throw new UserError('expected a new folder to write to', { exitCode: 2 })
    if (await convertNanogpt(source, out, flags['to'])) {
      result({ path: resolve(out) }, () => [`wrote ${out}`])
      return
    }
    const onProgress = (done: number, total: number) => {
      stop.throwIfAborted()
      report.live(`converting ${percent(done, total)}`)
    }
    if (out.endsWith('.gguf')) {
      await exportGguf(await loadModel(source, config, report), out, { type, onProgress })
      result({ path: resolve(out) }, () => [`wrote ${out}`])
      return
    }
    if (type === 'Q8_0') {
      throw new UserError('--to q8_0 is a type of GGUF files: name one, NAME.gguf', { exitCode: 2 })
    }
    const loaded = await loadModel(source, config, report)
    await convertCheckpoint(loaded.checkpoint, out, { dtype: type, onProgress })
    result({ model_dir: resolve(out) }, () => [`wrote ${out}`])
  })
}

const percent = (done: number, total: number) => `${((100 * done) / total).toFixed(0)} %`

/** Types by the names of the option, and by those of llama.cpp. */
const TYPES: Readonly<Record<string, WrittenType>> = {
  ...DTYPES,
  f32: 'F32',
  f16: 'F16',
  bf16: 'BF16',
  q8_0: 'Q8_0',
}

function typeFlag(value: unknown): WrittenType | undefined {
  if (value === undefined) return undefined
  if (typeof value === 'string' && Object.hasOwn(TYPES, value)) return TYPES[value]
  const names = [...Object.keys(DTYPES), 'q8_0'].join(', ')
  throw new UserError(`--to: expected ${names}, found ${JSON.stringify(value)}`, { exitCode: 2 })
}

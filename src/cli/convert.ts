// The command that rewrites checkpoints: convert.
// Formats are src/checkpoint's; nanoGPT's ckpt.pt is src/export/nanogpt.ts's.

import { resolve } from 'node:path'
import { Command } from 'commander'
import { convertCheckpoint } from '../checkpoint/convert.ts'
import { loadModel } from '../engine/load.ts'
import { convertNanogpt } from '../export/nanogpt.ts'
import { DTYPES, type DType } from '../util/dtypes.ts'
import { UserError } from '../util/errors.ts'
import { addOptions, configOf, sourceOf, type ContextOf, type Flags } from './flags.ts'

export function convertCommand(contextOf: ContextOf): Command {
  const command = new Command('convert')
    .description(
      "rewrite a checkpoint (.bin, safetensors, nanoGPT's ckpt.pt) as a safetensors folder, or a nanoGPT as ckpt.pt",
    )
    .argument('[model]', 'folder or hub id; left out with --synthetic')
    .argument('[out]', 'new folder, or NAME.pt')
    .option('--to <type>', 'float32, float16 or bfloat16 (default: as it is)')
  addOptions(command, 'convert')
  return command.action(async (first?: string, second?: string, flags: Flags = {}) => {
    const { report, result, stop } = contextOf(flags)
    const dtype = dtypeFlag(flags['to'])
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
    const loaded = await loadModel(source, config, report)
    await convertCheckpoint(loaded.checkpoint, out, {
      dtype,
      onProgress: (done, total) => {
        stop.throwIfAborted()
        report.live(`converting ${percent(done, total)}`)
      },
    })
    result({ model_dir: resolve(out) }, () => [`wrote ${out}`])
  })
}

const percent = (done: number, total: number) => `${((100 * done) / total).toFixed(0)} %`

function dtypeFlag(value: unknown): DType | undefined {
  if (value === undefined) return undefined
  const dtype = DTYPES[value as keyof typeof DTYPES] as DType | undefined
  if (dtype) return dtype
  const names = Object.keys(DTYPES).join(', ')
  throw new UserError(`--to: expected ${names}, found ${JSON.stringify(value)}`, { exitCode: 2 })
}

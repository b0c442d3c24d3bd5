// The command that shows what is in a checkpoint: inspect.
// Reading is src/checkpoint/open.ts's.

import { Command } from 'commander'
import { fileBytes } from '../checkpoint/types.ts'
import { loadModel } from '../engine/load.ts'
import { fingerprint } from '../run/fingerprint.ts'
import { table } from '../util/console.ts'
import { formatBytes } from '../util/units.ts'
import { addOptions, configOf, type ContextOf, type Flags } from './flags.ts'

export function inspectCommand(contextOf: ContextOf): Command {
  const command = new Command('inspect')
    .description('what a checkpoint holds: layout, tensors, dtypes, bytes')
    .argument('<model>')
  addOptions(command, 'inspect')
  return command.action(async (source: string, flags: Flags) => {
    const { report, result } = contextOf(flags)
    const { checkpoint, model, dir, commit } = await loadModel(
      source,
      configOf(flags, 'inspect'),
      report,
    )
    const tensors = [...checkpoint.tensors.values()].map((entry) => {
      const { name, dtype, shape, encoding } = entry
      return { name, dtype: encoding?.type ?? dtype, shape, bytes: fileBytes(entry) }
    })
    const { heads, kvHeads, headSize } = model.attention
    const headsText = kvHeads === heads ? `${heads} heads` : `${heads} heads (${kvHeads} of keys)`
    const json = {
      model: source,
      dir,
      commit,
      model_type: model.modelType,
      format: checkpoint.format,
      files: checkpoint.files,
      layers: model.layers,
      hidden: model.hidden,
      heads,
      kv_heads: kvHeads,
      head_size: headSize,
      vocab_size: model.vocabSize,
      max_positions: model.maxPositions,
      fingerprint: await fingerprint(checkpoint),
      tensors,
    }
    result(json, () => [
      `${source}: ${model.modelType}, ${checkpoint.format}, ${checkpoint.files.length} file(s)`,
      `  ${model.layers} layers, hidden ${model.hidden}, ${headsText} of ${headSize}, vocabulary ${model.vocabSize}, ${model.maxPositions} positions`,
      ...table(
        tensors.map((t) => [t.name, t.dtype, `[${t.shape.join(', ')}]`, formatBytes(t.bytes)]),
      ),
    ])
  })
}

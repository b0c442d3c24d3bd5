// The command that makes token files of text: prepare.
// Reading, splitting and encoding are src/data/prepare.ts's.

import { existsSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Argument, Command } from 'commander'
import { prepare, PREPARED_SETS, type PreparedSet } from '../data/prepare.ts'
import { UserError } from '../util/errors.ts'
import { PACKAGE_ROOT } from '../util/version.ts'
import type { ContextOf, Flags } from './flags.ts'

export function prepareCommand(contextOf: ContextOf): Command {
  return new Command('prepare')
    .description('text to train.bin, val.bin and meta.json, as nanoGPT prepares it')
    .addArgument(new Argument('<set>', 'which of its data sets').choices(PREPARED_SETS))
    .option(
      '--input <file...>',
      'shakespeare*: text files, taken as one text; openwebtext: data files with "text" (default: shakespeare of the package)',
    )
    .option('--output-dir <dir>', 'new folder (default: data/SET)')
    .action(async (set: PreparedSet, flags: Flags) => {
      const { report, result, stop } = contextOf(flags)
      const inputs = (flags['input'] as string[] | undefined) ?? shippedText(set)
      const outputDir = (flags['outputDir'] as string | undefined) ?? join('data', set)
      const onProgress = (tokens: number) => {
        stop.throwIfAborted()
        report.live(`${tokens} tokens`)
      }
      const meta = await prepare(set, { inputs, outputDir, onProgress })
      // The alphabet is in meta.json.
      result({ ...meta, itos: undefined, output_dir: resolve(outputDir) }, () => [
        `wrote ${outputDir}: train.bin ${meta.train_tokens} tokens, val.bin ${meta.val_tokens}, vocabulary ${meta.vocab_size}`,
      ])
    })
}

/** Shakespeare lies in the package; OpenWebText is the user's to fetch. */
function shippedText(set: PreparedSet): string[] {
  const files = ['train.txt', 'val.txt'].map((name) =>
    fileURLToPath(new URL(`examples/tinyshakespeare/${name}`, PACKAGE_ROOT)),
  )
  if (set !== 'openwebtext' && files.every((file) => existsSync(file))) return files
  throw new UserError(`zo2 prepare ${set} needs --input FILE`, { exitCode: 2 })
}

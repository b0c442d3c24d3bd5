// The command that trains on prepared text: pretrain. Options have nanoGPT's names beside ours; a
// configuration of nanoGPT's is a file of options here, never a program.

import { existsSync } from 'node:fs'
import { basename, extname } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Command } from 'commander'
import { readConfigFile } from '../config/file.ts'
import { keptCheckpoints } from '../run/folder.ts'
import { pretrain } from '../train/pretrain.ts'
import { PACKAGE_ROOT } from '../util/version.ts'
import { summaryJson, summaryLine } from './finetune.ts'
import { addOptions, configOf, type ContextOf, type Flags } from './flags.ts'

export function pretrainCommand(contextOf: ContextOf): Command {
  const command = new Command('pretrain')
    .description(
      "train a GPT from scratch (or on from one) on a prepared text, as nanoGPT's train.py",
    )
    .argument('[config]', 'file of options (.yaml, .toml, .json), or a shipped one by its name')
  addOptions(command, 'pretrain')
  return command.action(async (file: string | undefined, flags: Flags) => {
    const { report, result, stop } = contextOf(flags)
    const started = performance.now()
    const values = file === undefined ? {} : readConfigFile(configPath(file)).values
    const config = configOf({ ...values, ...flags }, 'pretrain')
    const summary = await pretrain(config, report, stop)
    const seconds = (performance.now() - started) / 1000
    const [kept] = await keptCheckpoints(summary.outputDir)
    const ckptDir = kept?.dir ?? null
    result({ ...summaryJson(summary, seconds), ckpt_dir: ckptDir }, () => [
      summaryLine(summary, seconds),
      ...(ckptDir === null ? [] : [`checkpoint: ${ckptDir}`]),
      summary.stopped ? 'continue with --resume' : `model: ${summary.modelDir ?? 'not written'}`,
    ])
  })
}

/** nanoGPT's `config/NAME` here or in the package, with or without its ending. */
function configPath(name: string): string {
  const endings = extname(name) === '' ? ['.yaml', '.toml', '.json'] : ['']
  const here = endings.map((ending) => name + ending)
  const shipped = here.map((file) =>
    fileURLToPath(new URL(`config/${basename(file)}`, PACKAGE_ROOT)),
  )
  return [...here, ...shipped].find((file) => existsSync(file)) ?? here[0]!
}

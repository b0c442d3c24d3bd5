// The commands about files and machines: inspect, export, convert, env.

import { METHOD_KEYS } from '../config/method.ts'
import { arch, cpus, release, totalmem } from 'node:os'
import { resolve, join } from 'node:path'
import { Command } from 'commander'
import { exportLora } from '../export/adapter.ts'
import { bestOf, criterionOf } from '../run/best.ts'
import { addOptions, configOf, type ContextOf, type Flags } from './flags.ts'
import { addSynthetic, sourceOf, SYNTHETIC } from './synthetic.ts'
import { parseConfig, type Config } from '../config/options.ts'
import { openCpu } from '../device/cpu/device.ts'
import { listAdapters } from '../device/webgpu/device.ts'
import { createEngine } from '../engine/engine.ts'
import { UserError } from '../util/errors.ts'
import { fingerprint } from '../run/fingerprint.ts'
import { readJournal, replay } from '../run/journal.ts'
import { table } from '../util/console.ts'
import { convertNanogpt } from '../export/nanogpt.ts'
import { modelCard } from '../export/card.ts'
import { evaluationsIn } from '../run/folder.ts'
import { readRunRecord } from '../config/record.ts'
import { DTYPES, loadModel, readyOptions } from '../engine/open.ts'
import { writeTrained } from '../export/result.ts'
import { formatBytes } from '../util/units.ts'
import { VERSION } from '../util/version.ts'
import { writeTextAtomically } from '../io/atomic.ts'
import { convertCheckpoint } from '../checkpoint/convert.ts'
import type { DType } from '../util/dtypes.ts'

export function checkpointCommands(contextOf: ContextOf): Command[] {
  return [inspectCommand(contextOf), exportCommand(contextOf), convertCommand(contextOf), envCommand(contextOf)] // prettier-ignore
}

function inspectCommand(contextOf: ContextOf): Command {
  const command = new Command('inspect')
    .description('what a checkpoint holds: layout, tensors, dtypes, bytes')
    .argument('<model>')
  addOptions(command, ['revision', 'cacheDir'])
  return command.action(async (source: string, flags: Flags) => {
    const { report, result } = contextOf(flags)
    const { checkpoint, model, dir, commit } = await loadModel(source, configOf(flags), report)
    const tensors = [...checkpoint.tensors.values()].map(({ name, dtype, shape, bytes }) => ({
      name,
      dtype,
      shape,
      bytes,
    }))
    const json = {
      model: source,
      dir,
      commit,
      model_type: model.modelType,
      format: checkpoint.format,
      files: checkpoint.files,
      layers: model.layers,
      hidden: model.hidden,
      heads: model.heads,
      vocab_size: model.vocabSize,
      max_positions: model.maxPositions,
      fingerprint: await fingerprint(checkpoint),
      tensors,
    }
    result(json, () => [
      `${source}: ${model.modelType}, ${checkpoint.format}, ${checkpoint.files.length} file(s)`,
      `  ${model.layers} layers, hidden ${model.hidden}, ${model.heads} heads, vocabulary ${model.vocabSize}, ${model.maxPositions} positions`,
      ...table(
        tensors.map((t) => [t.name, t.dtype, `[${t.shape.join(', ')}]`, formatBytes(t.bytes)]),
      ),
    ])
  })
}

function exportCommand(contextOf: ContextOf): Command {
  const command = new Command('export')
    .description('write base + journal of a run as a Hugging Face folder')
    .argument('<run>', 'output folder of zo2 finetune')
    .argument('<out>', 'new folder')
    .option('--model <model>', 'base model, if it is not where the run found it')
    .option(
      '--step <which>',
      'last, best or a number of steps (default: what the run keeps as its model)',
    )
    .option('--as-lora', 'write the change as a LoRA adapter that peft loads')
  addOptions(command, ['dtype', 'cacheDir', 'threads'])
  return command.action(async (run: string, out: string, flags: Flags) => {
    const { report, result, stop } = contextOf(flags)
    const given = configOf(flags, ['model', 'asLora', 'step'])
    const record = await readRunRecord(run)
    if (!record) throw new UserError(`${run}: no run there (no config.json)`)
    const config: Config = { ...parseConfig(record.config), ...given }
    // What decides the weights comes from the record, never from a flag's default.
    const own = parseConfig(record.config)
    const base = { ...config, ...Object.fromEntries(METHOD_KEYS.map((key) => [key, own[key]])) }
    const moved = flags['model'] as string | undefined
    const pinned = moved === undefined && record.commit !== null
    const loaded = await loadModel(
      moved ?? record.model,
      pinned ? { ...base, revision: record.commit! } : base,
      report,
    )
    if ((await fingerprint(loaded.checkpoint)) !== record.fingerprint) {
      throw new UserError(
        `${run} was run on other weights than ${loaded.source}; name the base with --model`,
      )
    }
    const journal = await readJournal(join(run, 'journal.jsonl'))
    const step = await stepOf(run, flags['step'], own, journal.length)
    const entries = journal.filter((entry) => entry.step < step)
    const updates = replay(entries, own.weightDecay)
    // Weights are made by the fold threads on the host; the device, wherever the run was, only completes
    // the engine.
    const device = await openCpu({ threads: base.threads })
    try {
      const options = await readyOptions(device, loaded, base, { updates, folded: 0, trains: false, scratchDir: run }) // prettier-ignore
      const engine = await createEngine(device, options)
      try {
        const asLora = flags['asLora'] === true
        const adapter = asLora || base.prefixTokens !== undefined
        const card = await modelCard(run, { updates: updates.length, adapter })
        const extra = (folder: string) => writeTextAtomically(join(folder, 'README.md'), card)
        const origin = { ...loaded, source: moved ?? record.model }
        if (asLora) await exportLora(engine, out, origin.source, extra)
        else {
          await writeTrained(engine, out, origin, {
            dtype: DTYPES[given.dtype],
            extra,
            onProgress: (done, total) => {
              stop.throwIfAborted()
              report.live(`writing ${percent(done, total)}`)
            },
          })
        }
      } finally {
        await engine.close()
      }
    } finally {
      await device.close()
    }
    result({ model_dir: resolve(out), step, updates: updates.length }, () => [
      `wrote ${out}: ${record.model} + ${updates.length} updates (step ${step} of ${journal.length})`,
    ])
  })
}

/** Steps whose updates are wanted: of the last one, of the best evaluation, or as many as given. */
async function stepOf(run: string, flag: unknown, config: Config, last: number): Promise<number> {
  const which = flag ?? (config.loadBestModelAtEnd ? 'best' : 'last')
  if (which === 'last') return last
  if (which === 'best') {
    const best = bestOf(await evaluationsIn(run), criterionOf(config))
    if (best) return best.step
    if (flag === undefined) return last
    throw new UserError(`${run} has no evaluation yet: no step is the best; name one with --step`)
  }
  const step = Number(which)
  if (typeof which === 'string' && /^\d+$/.test(which) && step <= last) return step
  throw new UserError(`--step: expected last, best or a number up to ${last}, found ${JSON.stringify(which)}`, { exitCode: 2 }) // prettier-ignore
}

function convertCommand(contextOf: ContextOf): Command {
  const command = new Command('convert')
    .description(
      "rewrite a checkpoint (.bin, safetensors, nanoGPT's ckpt.pt) as a safetensors folder, or a nanoGPT as ckpt.pt",
    )
    .argument('[model]', 'folder or hub id; left out with --synthetic')
    .argument('[out]', 'new folder, or NAME.pt')
    .option('--to <type>', 'float32, float16 or bfloat16 (default: as it is)')
  addSynthetic(command)
  addOptions(command, ['revision', 'cacheDir'])
  return command.action(async (first?: string, second?: string, flags: Flags = {}) => {
    const { report, result, stop } = contextOf(flags)
    const dtype = dtypeFlag(flags['to'])
    // With --synthetic the folder is the only argument.
    const alone = flags['synthetic'] !== undefined && second === undefined
    const [model, out] = alone ? [undefined, first] : [first, second]
    const source = sourceOf(model, flags)
    if (out === undefined) throw new UserError('expected a new folder to write to', { exitCode: 2 })
    if (await convertNanogpt(source, out, flags['to'])) {
      result({ path: resolve(out) }, () => [`wrote ${out}`])
      return
    }
    const loaded = await loadModel(source, configOf(flags, ['to', ...SYNTHETIC]), report)
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
  const dtype = DTYPES[value as Config['dtype']] as DType | undefined
  if (dtype) return dtype
  throw new UserError(`--to: expected ${Object.keys(DTYPES).join(', ')}, found ${JSON.stringify(value)}`, { exitCode: 2 }) // prettier-ignore
}

function envCommand(contextOf: ContextOf): Command {
  return new Command('env')
    .description('versions, processor, memory and WebGPU adapters; paste it into a bug report')
    .action(async (flags: Flags) => {
      const { result } = contextOf(flags)
      const cpu = await openCpu()
      const cpuDetail = cpu.info.detail
      await cpu.close()
      const adapters = await listAdapters()
      const json = {
        zo2: VERSION,
        node: process.version,
        system: `${process.platform} ${arch()} ${release()}`,
        processor: cpus()[0]?.model.trim() ?? 'unknown',
        cores: cpus().length,
        memory_bytes: totalmem(),
        cpu_device: cpuDetail,
        webgpu_adapters: adapters,
      }
      result(json, () => [
        ...table([
          ['zo2', VERSION],
          ['node', json.node],
          ['system', json.system],
          ['processor', `${json.processor} (${json.cores} cores)`],
          ['memory', formatBytes(json.memory_bytes)],
          ['cpu device', cpuDetail],
        ]),
        ...(adapters.length > 0
          ? adapters.map(
              (a) => `  webgpu      ${a.name}${a.software ? ' (software, only by --adapter)' : ''}`,
            )
          : [
              '  webgpu      no adapter: install your GPU driver, or run scripts/setup-vulkan.sh for a software one',
            ]),
      ])
    })
}

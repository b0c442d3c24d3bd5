// The model card of a run: README.md of a Hugging Face folder, every figure from the run's own records.
// Reads nothing but the run folder; where the card goes is export's and push's business.

import { basename } from 'node:path'
import { configYaml } from '../config/file.ts'
import { specOf, type Config, type OptionName } from '../config/options.ts'
import { UserError } from '../util/errors.ts'
import { readRun } from '../records/report/data.ts'
import { summaryOf } from '../records/report/summary.ts'
import { configOfRecord, readRunRecord, type RunRecord } from '../config/record.ts'
import { formatBytes } from '../util/units.ts'

/** What the card says beside the run's records. */
interface CardOptions {
  /** Updates in the weights it comes with. */
  readonly updates: number
  /** Whether the folder holds an adapter instead of a model. */
  readonly adapter?: boolean
}

/**
 * The card of the run in `dir`, Markdown with the front matter that hubs read.
 * @throws UserError if there is no run
 */
export async function modelCard(dir: string, { updates, adapter = false }: CardOptions) {
  const record = await readRunRecord(dir)
  if (!record) throw new UserError(`${dir}: no run there (no config.json)`)
  const run = summaryOf(await readRun(dir))
  const config = configOfRecord(record)
  const base = basename(record.model)
  const rows: [string, string | null][] = [
    [
      'base model',
      record.commit
        ? `[${record.model}](https://huggingface.co/${record.model}) at \`${record.commit.slice(0, 12)}\``
        : base,
    ],
    ['method', config.method],
    [
      'updates',
      `${updates} of ${run.planned ?? updates}${run.skipped > 0 ? `, ${run.skipped} skipped` : ''}`,
    ],
    ['batch', `${config.batchSize} x ${config.maxLength} tokens at most`],
    ['last training loss, smoothed', shown(run.lastLoss, (loss) => loss.toFixed(4))],
    ['best evaluation loss', score(run.bestLoss)],
    ['best accuracy', score(run.bestAccuracy)],
    ['device', run.device],
    ['device memory at its peak', shown(run.devicePeakBytes, formatBytes)],
    ['process memory at its peak', shown(run.rssPeakBytes, formatBytes)],
    ['time of a step, median', shown(run.medianStepMs, (ms) => `${ms.toFixed(0)} ms`)],
    ['base weights, fingerprint', `\`${record.fingerprint.slice(0, 16)}\``],
    ['training data, SHA-256', `\`${record.train_sha256.slice(0, 16)}\``],
  ]
  return [
    ...frontMatter(record, config, adapter),
    `# ${base}, fine-tuned with ${config.method}`,
    '',
    `${adapter ? 'An adapter' : 'A model'} made by zo2 ${record.zo2} with forward`,
    'passes only (zeroth-order optimisation). Every figure is from the records of the run.',
    '',
    '| | |',
    '| --- | --- |',
    ...rows.flatMap(([name, value]) => (value ? [`| ${name} | ${value} |`] : [])),
    '',
    '## To repeat',
    '',
    '`zo2 finetune --config run.yaml` with this run.yaml:',
    '',
    '```yaml',
    configYaml(record.commit ? record.model : base, shownOptions(record)).trimEnd(),
    '```',
    '',
  ].join('\n')
}

function frontMatter(record: RunRecord, config: Config, adapter: boolean): string[] {
  return [
    '---',
    ...(record.commit ? [`base_model: ${record.model}`] : []),
    `library_name: ${adapter ? 'peft' : 'transformers'}`,
    'pipeline_tag: text-generation',
    'tags:',
    ...['zo2', 'zeroth-order', config.method].map((tag) => `  - ${tag}`),
    '---',
    '',
  ]
}

/** What was chosen, not what was left as it is. */
function shownOptions(record: RunRecord): Partial<Config> {
  const card = (name: string) => specOf(name as OptionName).card
  const usual = (name: string) => specOf(name as OptionName).default
  return Object.fromEntries(
    Object.entries(record.config)
      .filter(([name, value]) => card(name) !== 'hidden' && !same(value, usual(name)))
      .map(([name, value]) => [name, card(name) === 'basename' ? basename(String(value)) : value]),
  )
}

const same = (a: unknown, b: unknown) => JSON.stringify(a) === JSON.stringify(b)

const shown = (value: number | null, text: (value: number) => string) =>
  value === null ? null : text(value)

const score = (found: { value: number; step: number } | null) =>
  found && `${found.value.toFixed(4)} after ${found.step} updates`

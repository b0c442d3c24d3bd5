// Our side of the training benches, a process that process.ts starts: opens what a case asks for and
// times steps of it, as `zo2 finetune` takes them (the journal's line and its fsync included), or
// evaluated batches. Token ids are the same as in pytorch.py.

import { readFileSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { parseConfig } from '../../src/config/options.ts'
import { packExamples, packTexts } from '../../src/data/packing.ts'
import { IGNORED, type Example, type Sequence } from '../../src/data/types.ts'
import { evaluateExamples, type Evaluation } from '../../src/train/evaluate.ts'
import { optionCrossEntropy } from '../../src/train/loss.ts'
import { MEAN_LOSS } from '../../src/train/objective.ts'
import { openJournal } from '../../src/run/journal.ts'
import { silent } from '../../src/util/console.ts'
import { openEngine } from '../../src/engine/open.ts'
import { loadModel } from '../../src/engine/load.ts'
import { zoStep } from '../../src/train/step.ts'
import type { Case, Settings, Span, TaskBatch, Timed } from './process.ts'

type Request = Case & Settings & Span

const [LR, EPS] = [1e-6, 1e-3]
/** LOZO's windows become factors of the next steps, up to 8 of 50 steps: timed halfway. */
const LOZO_HISTORY = 200

interface Opened {
  run(span: Span): Promise<Pick<Timed, 'ms' | 'loss'>>
  readonly detail: string
  close(): Promise<void>
}

/** As in pytorch.py: a hash (Knuth's multiplicative) of where the token is. */
function tokenId(vocab: number, step: number, b: number, t: number): number {
  const place = (step * 1000003 + b * 7919 + t) >>> 0
  return 4 + ((Math.imul(place, 2654435761) >>> 8) % (vocab - 4))
}

type RandomRequest = Extract<Request, { readonly task?: undefined }>

/** Texts of a rectangle of made-up tokens. */
function sequences(request: RandomRequest, vocab: number, step: number): Sequence[] {
  const { batch, tokens, labels } = request
  return Array.from({ length: batch }, (_, b) => {
    const inputIds = Array.from({ length: tokens }, (_, t) => tokenId(vocab, step, b, t))
    const labelled = (t: number) => (labels === 'all' ? t > 0 : t === tokens - 1)
    return { inputIds, labels: inputIds.map((id, t) => (labelled(t) ? id : IGNORED)) }
  })
}

/** The examples of a step of tasks. */
const taskExamples = (batch: TaskBatch): Example[] =>
  batch.map(({ answer, options: rows }) => {
    const options = rows.map(({ ids, answerTokens }) => {
      const first = ids.length - answerTokens
      return { inputIds: ids, labels: ids.map((id, t) => (t < first ? IGNORED : id)) }
    })
    return { ...options[answer]!, options, answer }
  })

/** What a step sees, and what it makes smaller. */
function dataOf(request: Request, vocab: number) {
  if (request.task === undefined) {
    const textsOf = (step: number) => sequences(request, vocab, step)
    return {
      examplesOf: textsOf,
      batchOf: (step: number) => packTexts(textsOf(step)),
      objective: MEAN_LOSS,
      lossOf: (evaluation: Evaluation) => evaluation.loss,
    }
  }
  const batches = JSON.parse(readFileSync(request.task, 'utf8')) as TaskBatch[]
  const examplesOf = (step: number) => taskExamples(batches[step]!)
  return {
    examplesOf,
    batchOf: (step: number) => packExamples(examplesOf(step), { options: true }),
    objective: { kind: 'losses', score: optionCrossEntropy } as const,
    lossOf: (evaluation: Evaluation) => evaluation.option_loss!,
  }
}

async function open(request: Request): Promise<Opened> {
  const { model: source, device: kind, adapter, blas, memory, resident, method } = request
  const trains = method !== 'eval'
  const config = parseConfig({
    device: kind,
    memory,
    resident,
    ...(adapter !== undefined && { adapter }),
    ...(blas !== undefined && { blas }),
    ...(trains && { method, noise: request.noise ?? 'gaussian' }),
  })
  const dir = await mkdtemp(join(tmpdir(), 'zo2-bench-'))
  const loaded = await loadModel(source, config, silent)
  const updates = Array.from({ length: method === 'lozo' ? LOZO_HISTORY : 0 }, (_, step) => {
    return { step, lr: LR, grads: [step % 2 ? 0.1 : -0.1], decay: 1 }
  })
  const state = { updates, folded: 0, trains, scratchDir: dir }
  const { engine, device, close } = await openEngine(loaded, config, state)
  const journal = await openJournal(join(dir, 'journal.jsonl'))
  let done = updates.length
  const { examplesOf, batchOf, objective, lossOf } = dataOf(request, loaded.model.vocabSize)
  return {
    detail: `${device.info.name}, ${device.info.detail}`,
    async run({ first, steps }) {
      const ms: number[] = []
      let loss = NaN
      if (!trains) {
        const numbers = Array.from({ length: steps }, (_, i) => first + i)
        const all: readonly Example[] = numbers.flatMap((step) => examplesOf(step))
        const started = performance.now()
        loss = lossOf(await evaluateExamples(engine, all, {}))
        return { ms: Array<number>(steps).fill((performance.now() - started) / steps), loss }
      }
      for (let step = first; step < first + steps; step++) {
        const batches = [batchOf(step)]
        const started = performance.now()
        const entry = await zoStep(engine, {
          batches,
          objective,
          step: done++,
          lr: LR,
          eps: EPS,
          weightDecay: 0,
          append: (line) => journal.append(line),
        })
        ms.push(performance.now() - started)
        loss = (entry.loss_plus! + entry.loss_minus!) / 2
      }
      return { ms, loss }
    },
    async close() {
      await close()
      await journal.close()
      await rm(dir, { recursive: true })
    },
  }
}

let opened: Opened | undefined
let current = ''
for await (const line of createInterface({ input: process.stdin })) {
  const request = JSON.parse(line) as Request
  const key = JSON.stringify({ ...request, first: 0, steps: 0 })
  if (key !== current) {
    await opened?.close()
    opened = await open(request)
    current = key
  }
  const { ms, loss } = await opened!.run(request)
  const rss = process.resourceUsage().maxRSS * 1024
  const answer: Timed = { ms, loss, rss_peak_bytes: rss, detail: opened!.detail }
  process.stdout.write(`${JSON.stringify(answer)}\n`)
}
await opened?.close()

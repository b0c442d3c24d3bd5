// zo2 report: its numbers are those of the run folder, nothing is loaded from elsewhere, and a run
// that is empty, torn or damaged gets a page or a sentence.
// Alone: npx vitest run test/runs/records-report.test.ts

import {
  appendFileSync,
  cpSync,
  mkdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { runInNewContext } from 'node:vm'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { chartsOf, smooth, type Chart } from '../../src/records/report/charts.ts'
import { readRun } from '../../src/records/report/data.ts'
import { drawCharts } from '../../src/records/report/draw.ts'
import { reportPage } from '../../src/records/report/page.ts'
import { here, hereJson, makeFolder, SENTIMENT, TINY } from '../helpers/cli.ts'

const home = makeFolder()
const at = (name: string) => join(home, name)
type Line = Record<string, number | null>
const jsonl = (path: string) =>
  readFileSync(path, 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as Line)

/** The data that a page carries. */
function dataOf(page: string) {
  const [, json] = /<script type="application\/json" id="data">(.*?)<\/script>/s.exec(page)!
  return JSON.parse(json!) as { runs: Record<string, unknown>[]; charts: Chart[] }
}
const curve = (charts: readonly Chart[], title: string, label: string) => {
  const found = charts.find((c) => c.title === title)?.curves.find((c) => c.label === label)
  return { x: found?.x, y: found?.y }
}
/** A copy of the run, to be damaged. */
const copy = (name: string) => {
  cpSync(at('run'), at(name), { recursive: true })
  return at(name)
}

beforeAll(async () => {
  const data = [
    '--train',
    join(SENTIMENT, 'train.jsonl'),
    '--eval-file',
    join(SENTIMENT, 'dev.jsonl'),
  ]
  const text = ['--template', '{text} </script><b>&', '--label-words', 'terrible,great']
  const size = [
    '--steps',
    '6',
    '--eval-steps',
    '3',
    '--eval-samples',
    '4',
    '--batch-size',
    '2',
    '--max-length',
    '24',
  ]
  const rest = ['--device', 'cpu', '--threads', '1', '--save-model', 'no', '--lr', '1e-4']
  await hereJson(['finetune', TINY, ...data, ...text, ...size, ...rest, '--output-dir', at('run')])
})
afterAll(() => rmSync(home, { recursive: true, force: true }))

describe('zo2 report', () => {
  it('shows the numbers of metrics.jsonl and evals.jsonl', async () => {
    const { report, runs } = await hereJson(['report', at('run')])
    expect(report).toBe(join(at('run'), 'report.html'))
    const page = readFileSync(report as string, 'utf8')
    const { charts } = dataOf(page)
    const [steps, evals] = [
      jsonl(join(at('run'), 'metrics.jsonl')),
      jsonl(join(at('run'), 'evals.jsonl')),
    ]
    const of = (lines: Line[], field: string) => ({
      x: lines.map((line) => line['step']),
      y: lines.map((line) => line[field]),
    })
    expect(curve(charts, 'Loss', 'train')).toEqual(of(steps, 'loss'))
    expect(curve(charts, 'Loss', 'eval')).toEqual(of(evals, 'loss'))
    expect(curve(charts, 'Accuracy', 'eval')).toEqual(of(evals, 'accuracy'))
    expect(curve(charts, 'Projected gradient', 'g')).toEqual(of(steps, 'projected_grad'))
    expect(curve(charts, 'Step time', 'step')).toEqual(of(steps, 'step_ms'))
    expect(curve(charts, 'Step time', 'waiting')).toEqual(of(steps, 'wait_ms'))
    expect(curve(charts, 'Learning rate', 'lr')).toEqual(of(steps, 'lr'))
    const [run] = runs as Record<string, unknown>[]
    expect(run).toMatchObject({ model: TINY, method: 'mezo-sgd', steps: 6, planned: 6, skipped: 0 })
    const losses = evals.map((line) => line['loss']!)
    const best = Math.min(...losses)
    expect(run!['best_loss']).toEqual({ value: best, step: evals[losses.indexOf(best)]!['step'] })
    expect(run!['device_peak_bytes']).toBe(steps.at(-1)!['device_peak_bytes'])
    const { bytes } = JSON.parse(readFileSync(join(at('run'), 'device.json'), 'utf8')) as {
      bytes: Record<string, number>
    }
    for (const [category, n] of Object.entries(bytes))
      if (n > 0) expect(page).toContain(`${category}</th>`)
  })

  it('needs no network, and text of a run stays text', async () => {
    const page = reportPage([await readRun(at('run'))])
    expect(page).toContain("default-src 'none'")
    expect(page).not.toMatch(/<(link|img|iframe)|\ssrc=|@import|url\(/i)
    expect(page).toContain('{text} &#60;/script&#62;&#60;b&#62;&#38;')
    expect(page).not.toContain('</script><b>')
    const named = reportPage([await readRun(at('run'), '</script><script>alert(1)')])
    expect(named.match(/<script/g)).toHaveLength(3)
    expect(dataOf(named).runs[0]).toMatchObject({ run: '</script><script>alert(1)' })
  })

  it('compares runs, and says where they differ', async () => {
    const other = copy('other')
    const record = JSON.parse(readFileSync(join(other, 'config.json'), 'utf8')) as {
      config: object
    }
    const config = { ...record.config, lr: 0.5, memory: 2 ** 20 }
    writeFileSync(join(other, 'config.json'), JSON.stringify({ ...record, config }))
    const out = at('both.html')
    const { stdout, stderr } = await here(['report', at('run'), other, '-o', out])
    expect([stdout, stderr]).toEqual([
      expect.stringMatching(/^wrote .*both\.html \(.+ KiB\)\n$/),
      '',
    ])
    const page = readFileSync(out, 'utf8')
    const { charts, runs } = dataOf(page)
    expect(runs.map((run) => run['run'])).toEqual(['run', 'other'])
    expect(charts[0]!.curves.map((c) => [c.label, c.run])).toEqual([
      ['run train', 0],
      ['run train, smoothed', 0],
      ['run eval', 0],
      ['other train', 1],
      ['other train, smoothed', 1],
      ['other eval', 1],
    ])
    const [differ] = /What differs.*?<\/table>/s.exec(page)!
    expect(differ).toContain('--lr</th><td>0.0001</td><td>0.5</td>')
    expect(differ).toContain('--memory</th><td>1.00 GiB</td><td>1.00 MiB</td>')
    expect(differ).not.toContain('--seed')
  })

  it('takes a run that has only begun', async () => {
    const dir = at('begun')
    mkdirSync(dir)
    cpSync(join(at('run'), 'config.json'), join(dir, 'config.json'))
    const page = reportPage([await readRun(dir)])
    expect(page).toContain('No steps yet.')
    expect(dataOf(page).charts).toEqual([])
  })

  it('takes torn last lines, and the journal where metrics are lost', async () => {
    const dir = copy('torn')
    const metrics = join(dir, 'metrics.jsonl')
    truncateSync(metrics, readFileSync(metrics).length - 30)
    appendFileSync(join(dir, 'evals.jsonl'), '{"step": 6, "lo')
    const whole = chartsOf([await readRun(at('run'))])
    const torn = chartsOf([await readRun(dir)])
    expect(curve(torn, 'Loss', 'train')).toEqual(curve(whole, 'Loss', 'train'))
    expect(curve(torn, 'Loss', 'eval')).toEqual(curve(whole, 'Loss', 'eval'))
    expect(curve(torn, 'Step time', 'step').y!.at(-1)).toBeNull()
    for (const name of ['metrics.jsonl', 'evals.jsonl', 'device.json']) rmSync(join(dir, name))
    const bare = chartsOf([await readRun(dir)])
    expect(bare.map((chart) => chart.title)).toEqual([
      'Loss',
      'Projected gradient',
      'Learning rate',
    ])
    expect(curve(bare, 'Loss', 'train')).toEqual(curve(whole, 'Loss', 'train'))
  })

  it('gives one sentence for what is no run', async () => {
    const dir = copy('damaged')
    const sentence = async (...args: string[]) => {
      const { code, stdout, stderr } = await here(['report', ...args])
      return [code, stdout, stderr]
    }
    writeFileSync(join(dir, 'device.json'), '{"kind": 3}')
    expect(await sentence(dir)).toEqual([
      1,
      '',
      expect.stringMatching(/device\.json: not the device record/),
    ])
    rmSync(join(dir, 'device.json'))
    writeFileSync(join(dir, 'journal.jsonl'), 'nonsense\n')
    expect(await sentence(dir)).toEqual([
      1,
      '',
      expect.stringMatching(/journal\.jsonl: line 1 is damaged/),
    ])
    writeFileSync(join(dir, 'config.json'), '{}')
    expect(await sentence(dir)).toEqual([1, '', expect.stringMatching(/not the record of a run/)])
    expect(await sentence(at('nowhere'))).toEqual([
      1,
      '',
      `zo2: ${at('nowhere')}: no run there (no config.json)\n`,
    ])
    expect(await sentence()).toEqual([2, '', "zo2: missing required argument 'runs'\n"])
    expect((await sentence(at('run'), '-o', join(home, 'no', 'r.html')))[0]).toBe(1)
  })
})

describe('the smoothed loss', () => {
  it('is the mean of the past, with weights that fall by e in the given steps', () => {
    const keep = Math.exp(-1 / 2)
    expect(smooth([1, null, 3], 2)).toEqual([1, null, (keep + 3) / (keep + 1)])
    for (const mean of smooth([5, 5, 5], 10)) expect(mean).toBeCloseTo(5, 12)
    expect(smooth([], 1)).toEqual([])
  })
})

describe('the function that draws', () => {
  it('works from its source alone, and hands every curve to the library', async () => {
    const charts = chartsOf([await readRun(at('run'))])
    const made: { series: { label: string }[]; data: unknown; place: { id: string } }[] = []
    class Plot {
      static join = (tables: unknown) => tables
      constructor(
        { series }: { series: { label: string }[] },
        data: unknown,
        place: { id: string },
      ) {
        made.push({ series, data, place })
      }
    }
    const window = { matchMedia: () => ({ addEventListener() {} }), addEventListener() {} }
    const document = {
      documentElement: {},
      getElementById: (id: string) => ({ id, clientWidth: 500 }),
    }
    const getComputedStyle = () => ({ getPropertyValue: (name: string) => ` ${name}` })
    const context = { window, document, getComputedStyle, charts, Plot }
    runInNewContext(`(${drawCharts.toString()})(charts, Plot)`, context)
    expect(made.map(({ place }) => place.id)).toEqual(charts.map((_, i) => `chart-${i}`))
    made.forEach(({ series, data }, i) => {
      expect(series.map((s) => s.label)).toEqual(['step', ...charts[i]!.curves.map((c) => c.label)])
      expect(data).toEqual(charts[i]!.curves.map((c) => [c.x, c.y]))
    })
  })
})

// A report as one HTML page that needs no network: tables, memory bars, and the data of the charts
// with the library and the function that draw them.

import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { OPTIONS } from '../../config/options.ts'
import { flagName, type OptionSpec } from '../../config/spec.ts'
import { formatBytes } from '../../util/units.ts'
import { chartsOf } from './charts.ts'
import type { RunData } from './data.ts'
import { drawCharts } from './draw.ts'
import { summaryOf, type RunFigures } from './summary.ts'
import { STYLE } from './style.ts'
import { maxOf } from '../../util/extremes.ts'

/** The whole page. */
export function reportPage(runs: readonly RunData[]): string {
  const charts = chartsOf(runs)
  const title = runs.length === 1 ? `zo2 run ${runs[0]!.label}` : `${runs.length} zo2 runs`
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>${escape(title)}</title>
<style>${asset('uPlot.min.css')}${STYLE}</style>
</head>
<body>
<h1>${escape(title)}</h1>
${summaryTable(runs)}
<section class="charts">
${charts.map(({ title, note }, i) => `<figure><figcaption><b>${escape(title)}</b> <span>${escape(note)}</span></figcaption><div id="chart-${i}" class="chart"></div></figure>`).join('\n')}
</section>
${runs.every((run) => run.steps.length === 0) ? '<p class="note">No steps yet.</p>' : ''}
${memorySection(runs)}
${optionsSection(runs)}
<script type="application/json" id="data">${embedded({ runs: runs.map(summaryOf), charts })}</script>
<script>${asset('uPlot.iife.min.js')}</script>
<script>
const __name = (f) => f // some compilers wrap functions in it
;(${drawCharts.toString()})(JSON.parse(document.getElementById('data').textContent).charts, uPlot)
</script>
</body>
</html>
`
}

const asset = (name: string) =>
  readFileSync(createRequire(import.meta.url).resolve(`uplot/dist/${name}`), 'utf8')

/** JSON that cannot end the script element it stands in. */
const embedded = (value: unknown) => JSON.stringify(value).replaceAll('<', '\\u003c')

const escape = (text: string) => text.replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`)

const row = (cells: readonly string[], tag = 'td') =>
  `<tr>${cells.map((cell, i) => (i === 0 ? `<th scope="row">${cell}</th>` : `<${tag}>${cell}</${tag}>`)).join('')}</tr>`

const table = (head: readonly string[], rows: readonly string[]) =>
  `<div class="scroll"><table><thead>${row(head, 'th')}</thead><tbody>${rows.join('')}</tbody></table></div>`

const swatch = (name: string) => `<i style="background:var(${name})"></i>`
const runName = (run: RunData, i: number) => `${swatch(`--run-${i % 8}`)}${escape(run.label)}`

function summaryTable(runs: readonly RunData[]): string {
  const all = runs.map(summaryOf)
  const figure = (value: number | null, show: (value: number) => string) =>
    value === null ? '-' : show(value)
  const best = (score: RunFigures['bestLoss']) =>
    score ? `${score.value.toFixed(4)} <small>at step ${score.step}</small>` : '-'
  const rows: [string, (s: RunFigures) => string, boolean?][] = [
    ['model', (s) => escape(s.model)],
    ['method', (s) => escape(s.method)],
    ['device', (s) => escape(s.device ?? '-')],
    ['steps', (s) => `${s.steps}${s.planned === null ? '' : ` of ${s.planned}`}`],
    ['skipped steps', (s) => String(s.skipped), all.some((s) => s.skipped > 0)],
    ['training loss, smoothed, at the end', (s) => figure(s.lastLoss, (v) => v.toFixed(4))],
    ['best evaluation loss', (s) => best(s.bestLoss), all.some((s) => s.bestLoss)],
    ['best accuracy', (s) => best(s.bestAccuracy), all.some((s) => s.bestAccuracy)],
    ['median step', (s) => figure(s.medianStepMs, (v) => `${v.toFixed(v < 100 ? 1 : 0)} ms`)],
    [
      'of that, waiting for weights',
      (s) => figure(s.waitShare, (v) => `${(100 * v).toFixed(0)} %`),
    ],
    ['tokens per second', (s) => figure(s.tokensPerSecond, (v) => v.toFixed(0))],
    ['device peak', (s) => figure(s.devicePeakBytes, (v) => formatBytes(v))],
    ['process peak', (s) => figure(s.rssPeakBytes, (v) => formatBytes(v))],
  ]
  return table(
    ['', ...runs.map(runName)],
    rows.filter(([, , shown = true]) => shown).map(([name, of]) => row([name, ...all.map(of)])),
  )
}

/** Bytes by category at the peak: one bar per run, and the figures. */
function memorySection(runs: readonly RunData[]): string {
  const known = runs.flatMap((run, i) => (run.device ? [{ run, i, device: run.device }] : []))
  if (known.length === 0) return ''
  const categories = [...new Set(known.flatMap(({ device }) => Object.keys(device.bytes)))].filter(
    (category) => known.some(({ device }) => (device.bytes[category] ?? 0) > 0),
  )
  const most = maxOf(known.map(({ device }) => device.peak_bytes))
  const bars = known.map(({ run, i, device }) => {
    const parts = categories.map((category, c) => {
      const bytes = device.bytes[category] ?? 0
      const label = `${category} ${formatBytes(bytes)}`
      return `<span style="width:${((100 * bytes) / most).toFixed(3)}%;background:var(--part-${c % 8})" title="${escape(label)}"></span>`
    })
    return `${runs.length > 1 ? `<p class="bar-name">${runName(run, i)}</p>` : ''}<div class="bar">${parts.join('')}</div>`
  })
  const rows = categories.map((category, c) =>
    row([
      `${swatch(`--part-${c % 8}`)}${escape(category)}`,
      ...known.map(({ device }) => formatBytes(device.bytes[category] ?? 0)),
    ]),
  )
  const sum = row([
    '<b>peak</b>',
    ...known.map(({ device }) => `<b>${formatBytes(device.peak_bytes)}</b>`),
  ])
  return `<section><h2>Device memory at its peak</h2>${bars.join('')}${table(['', ...known.map(({ run, i }) => runName(run, i))], [...rows, sum])}</section>`
}

/** Options in the order of the table; those that differ between runs, or from the default, first. */
function optionsSection(runs: readonly RunData[]): string {
  const specs: Readonly<Record<string, OptionSpec>> = OPTIONS
  const known = Object.keys(specs)
  const given = runs.flatMap((run) => Object.keys(run.options))
  const names = [...new Set([...known.filter((name) => given.includes(name)), ...given])]
  const text = (name: string, value: unknown): string => {
    if (value === undefined) return '-'
    if (Array.isArray(value)) return value.join(',')
    const isBytes = specs[name]?.value === 'bytes' && typeof value === 'number'
    return isBytes ? formatBytes(value) : String(value as string | number | boolean)
  }
  const special = (name: string) => {
    const values = runs.map((run) => text(name, run.options[name]))
    return runs.length > 1
      ? new Set(values).size > 1
      : values[0] !== '-' && values[0] !== text(name, specs[name]?.default)
  }
  const list = (shown: readonly string[]) =>
    table(
      ['', ...runs.map(runName)],
      shown.map((name) =>
        row([
          escape(`--${flagName(name)}`),
          ...runs.map((run) => escape(text(name, run.options[name]))),
        ]),
      ),
    )
  const rest = names.filter((name) => !special(name))
  return `<section><h2>Configuration</h2><h3>${runs.length > 1 ? 'What differs' : 'Other than the defaults'}</h3>${list(names.filter(special))}<details><summary>${runs.length > 1 ? 'What is the same' : 'The defaults'} (${rest.length})</summary>${list(rest)}</details><p class="note">written by zo2 ${escape([...new Set(runs.map((run) => run.zo2))].join(', '))}</p></section>`
}

// The part of a report that runs in the browser: draws charts with uPlot in the colours of the page.
// Its source goes into the page as text, so it may name nothing but its arguments and the browser's.

import type uPlot from 'uplot'
import type { Chart } from './charts.ts'

/** Draws each chart into the element `chart-<index>`, and again when the colours change. */
export function drawCharts(charts: readonly Chart[], Plot: typeof uPlot): void {
  const dark = window.matchMedia('(prefers-color-scheme: dark)')
  const HEIGHT = 260
  let plots: { plot: uPlot; place: HTMLElement }[] = []

  const number = (value: number | null | undefined) => {
    if (value === null || value === undefined) return '-'
    const short = Number(value.toPrecision(6))
    const plain = short === 0 || (Math.abs(short) >= 1e-3 && Math.abs(short) < 1e7)
    return plain ? String(short) : short.toExponential()
  }

  const draw = () => {
    for (const { plot } of plots) plot.destroy()
    const style = getComputedStyle(document.documentElement)
    const colour = (name: string) => style.getPropertyValue(name).trim()
    const axis: uPlot.Axis = {
      stroke: colour('--muted'),
      grid: { stroke: colour('--line'), width: 1 },
      ticks: { stroke: colour('--line'), width: 1 },
      font: '11px system-ui, sans-serif',
    }
    plots = charts.map((chart, i) => {
      const place = document.getElementById(`chart-${i}`)!
      const series = chart.curves.map((curve): uPlot.Series => {
        const own = colour(`--run-${curve.run % 8}`)
        const few = curve.x.length < 3
        return {
          label: curve.label,
          stroke: curve.style === 'raw' ? own + '40' : own,
          width: curve.style === 'raw' ? 1 : curve.style === 'line' ? 1.75 : 1.25,
          ...(curve.style === 'dashed' && { dash: [4, 3] }),
          points:
            curve.style === 'points' || few ? { show: true, size: 7, fill: own } : { show: false },
          value: (_, value) => number(value),
        }
      })
      const tables = chart.curves.map((curve) => [curve.x, curve.y])
      const plot = new Plot(
        {
          width: place.clientWidth,
          height: HEIGHT,
          scales: { x: { time: false } },
          axes: [
            axis,
            { ...axis, size: 62, values: (_, splits) => splits.map((split) => number(split)) },
          ],
          series: [{ label: 'step' }, ...series],
          cursor: { sync: { key: 'step' } },
        },
        Plot.join(tables as unknown as uPlot.AlignedData[]),
        place,
      )
      return { plot, place }
    })
  }

  draw()
  dark.addEventListener('change', draw)
  window.addEventListener('resize', () => {
    for (const { plot, place } of plots) plot.setSize({ width: place.clientWidth, height: HEIGHT })
  })
}

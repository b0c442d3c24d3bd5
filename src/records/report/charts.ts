// The charts of a report as data: which curves of which runs, and the numbers in them. Drawing is
// draw.ts's business.

import { maxOf } from '../../util/extremes.ts'
import { SCORES, type Column, type RunData } from './data.ts'

interface Curve {
  readonly label: string
  /** Index of the run: its colour. */
  readonly run: number
  /** raw: faint; line; dashed; points: joined dots. */
  readonly style: 'raw' | 'line' | 'dashed' | 'points'
  readonly x: readonly number[]
  readonly y: Column
}

export interface Chart {
  readonly title: string
  /** What the numbers are, below the title. */
  readonly note: string
  readonly curves: readonly Curve[]
}

const SCORE_TITLES = { accuracy: 'Accuracy', f1: 'F1', exact_match: 'Exact match' }

/** The charts that have something to show. */
export function chartsOf(runs: readonly RunData[]): Chart[] {
  const several = runs.length > 1
  const curvesOf = (make: (run: RunData, name: string) => Omit<Curve, 'run'>[]) =>
    runs.flatMap((run, i) =>
      make(run, several ? `${run.label} ` : '').map((c) => ({ ...c, run: i })),
    )
  const charts: Chart[] = [
    {
      title: 'Loss',
      note: `training, raw and smoothed over ${maxOf(runs.map(smoothingSteps))} steps; dots: evaluation`,
      curves: curvesOf((run, name) => [
        { label: `${name}train`, style: 'raw', x: run.steps, y: run.metrics.loss },
        {
          label: `${name}train, smoothed`,
          style: 'line',
          x: run.steps,
          y: smooth(run.metrics.loss, smoothingSteps(run)),
        },
        { label: `${name}eval`, style: 'points', x: run.evalSteps, y: run.evals.loss },
      ]),
    },
    ...SCORES.slice(1).map((score) => ({
      title: SCORE_TITLES[score as keyof typeof SCORE_TITLES],
      note: 'of the held-out examples',
      curves: curvesOf((run, name) => [
        { label: `${name}eval`, style: 'points', x: run.evalSteps, y: run.evals[score] },
      ]),
    })),
    {
      title: 'Projected gradient',
      note: '(loss+ - loss-) / (2 eps), one number per step',
      curves: curvesOf((run, name) => [
        { label: `${name}g`, style: 'line', x: run.steps, y: run.metrics.projected_grad },
      ]),
    },
    {
      title: 'Step time',
      note: 'ms per step; dashed: of these, waiting for weights to arrive',
      curves: curvesOf((run, name) => [
        { label: `${name}step`, style: 'line', x: run.steps, y: run.metrics.step_ms },
        { label: `${name}waiting`, style: 'dashed', x: run.steps, y: run.metrics.wait_ms },
      ]),
    },
    {
      title: 'Learning rate',
      note: 'as the schedule set it',
      curves: curvesOf((run, name) => [
        { label: `${name}lr`, style: 'line', x: run.steps, y: run.metrics.lr },
      ]),
    },
  ]
  const filled = (curve: Curve) => curve.y.some((value) => value !== null)
  return charts
    .map((chart) => ({ ...chart, curves: chart.curves.filter(filled) }))
    .filter((chart) => chart.curves.length > 0)
}

/** A thirtieth of the run. */
const smoothingSteps = (run: RunData) => Math.max(1, Math.round(run.steps.length / 30))

/**
 * Exponential mean with a time constant of `steps`, its start not pulled to 0. A null stays one and
 * leaves the mean as it is.
 */
export function smooth(values: Column, steps: number): Column {
  const keep = Math.exp(-1 / steps)
  let [sum, weight] = [0, 0]
  return values.map((value) => {
    if (value === null) return null
    sum = sum * keep + value
    weight = weight * keep + 1
    return sum / weight
  })
}

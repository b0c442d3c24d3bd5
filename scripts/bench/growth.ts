// Bench (e): how the time of a step grows, by least squares over steps of OPT-125m's width: with the
// number of layers, and with the number of tokens at all layers (more sequences, so that attention
// grows alike). What these lines leave at no layers is the head's work, at no tokens the reading,
// widening and noise of all weights. The fixed cost of a step is what is left of steps of a few tokens,
// whose work is going through the weights, where there are no weights. Weights are synthetic.
//   bash scripts/bench/run.sh e [--methods mezo-sgd,lozo] [--device cpu] [--layers 2,4,6,8,10,12]
//     [--batches 2,4,8,12,16] [--tokens 64] [--rounds 5] [--steps 2]

import { syntheticModel } from '../../src/engine/load.ts'
import { flags, listed, median, record, say, spread, table } from './common.ts'
import { type Fit, leastSquares } from './fit.ts'
import { inTurns, type Measured, type Variant } from './rounds.ts'

const options = flags({
  methods: 'mezo-sgd,lozo',
  device: 'cpu',
  adapter: 'llvmpipe',
  memory: '1GiB',
  layers: '2,4,6,8,10,12',
  batches: '2,4,8,12,16',
  tokens: '64',
  rounds: '5',
  steps: '2',
})
const numbers = (value: string) => listed(value).map(Number)
const counts = { rounds: Number(options.rounds), steps: Number(options.steps) }
const [SIZE, LAYERS, BATCH] = ['opt-125m', 12, 16]
const tokens = Number(options.tokens)
/** A step of so few tokens takes a tenth of a second: more of them in a round. */
const [FEW, FEW_STEPS] = [{ batch: 1, tokens: 4 }, 3 * counts.steps]

interface Shape {
  readonly layers: number
  readonly batch: number
  readonly tokens: number
}

type Point = Measured & Shape

async function measure(method: string, shapes: readonly Shape[], steps = counts.steps) {
  const device = options.device as Variant['device']
  const variants = shapes.map(({ layers, batch, tokens }): Variant => {
    return {
      model: `synthetic:${SIZE}/${layers}`,
      method: method as Variant['method'],
      device,
      batch,
      tokens,
      labels: 'all',
      memory: options.memory,
      resident: 'auto',
      ...(device === 'webgpu' && { adapter: options.adapter }),
    }
  })
  const measured = await inTurns(variants, { ...counts, steps })
  return measured.map((of, i): Point => ({ ...of, ...shapes[i]! }))
}

/** A fit to the medians of all rounds, and one to every round. */
function report(
  name: string,
  points: readonly Point[],
  variable: (p: Point) => number,
  unit: string,
) {
  const x = points.map(variable)
  const all = leastSquares(
    x,
    points.map(({ ms }) => median(ms)),
  )
  const rounds = points[0]!.ms.map((_, round) =>
    leastSquares(
      x,
      points.map(({ ms }) => ms[round]!),
    ),
  )
  record('growth', { name, device: options.device, points, fit: all, rounds })
  const each = (of: (fit: Fit) => number, digits: number) => {
    const values = rounds.map(of)
    const [least, most] = [Math.min(...values), Math.max(...values)]
    return `${of(all).toFixed(digits)} (${least.toFixed(digits)} to ${most.toFixed(digits)})`
  }
  fits.push([
    name,
    `${each((f) => f.slope, 2)} ${unit}`,
    each((f) => f.intercept, 1),
    each((f) => f.r2, 4),
  ])
}

/** Matrix elements in units of 1e6. */
function weights({ layers }: Point): number {
  const { matrices } = syntheticModel({ size: SIZE, layers }).model
  return matrices.reduce((sum, { rows, cols }) => sum + rows * cols, 0) / 1e6
}

const times: string[][] = []
const fits: string[][] = []
for (const method of listed(options.methods)) {
  const depths = numbers(options.layers)
  const deep = await measure(
    method,
    depths.map((layers) => ({ layers, batch: BATCH, tokens })),
  )
  const wide = await measure(
    method,
    numbers(options.batches).map((batch) => ({ layers: LAYERS, batch, tokens })),
  )
  const few = await measure(
    method,
    depths.map((layers) => ({ layers, ...FEW })),
    FEW_STEPS,
  )
  for (const { layers, batch, tokens, ms } of [...deep, ...wide, ...few]) {
    times.push([`${method}, ${layers} layers, ${batch} x ${tokens} tokens`, spread(ms)])
  }
  report(`${method}, by layers`, deep, ({ layers }) => layers, 'ms a layer')
  report(`${method}, by tokens`, wide, ({ batch }) => batch * tokens, 'ms a token')
  report(`${method}, by weights, ${FEW.batch} x ${FEW.tokens} tokens`, few, weights, 'ms a million')
}
say(`\n${SIZE}, ${options.device}; median (min-max) of ${options.rounds} rounds\n`)
table(['', 'ms of a step'], times)
say('\nfits to these medians (range of the fits to single rounds)\n')
table(['', 'grows by', 'at zero, ms', 'R^2'], fits)

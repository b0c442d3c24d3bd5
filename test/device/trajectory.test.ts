// A state is a function of the trajectory: replaying the steps that counted, without the skipped ones
// between them, gives the weights of the run that made them, bit for bit, wherever its folds fell.
// Alone: npx vitest run test/device/trajectory.test.ts

import { describe, expect, it } from 'vitest'
import { createMethod, METHOD_NAMES } from '../../src/methods/index.ts'
import type { Fold, MethodOptions, Update } from '../../src/methods/method.ts'
import { createSelection } from '../../src/methods/selection.ts'
import { createNoiseKernel } from '../../src/noise/wasm.ts'
import { METHOD_DEFAULTS } from '../helpers/method-defaults.ts'
import { seeded } from '../helpers/crash.ts'

const STEPS = 24
const SHAPES = [0, 1, 2].map((i) => ({
  name: `m.layers.${i}.w.weight`,
  rows: 6,
  cols: 8,
  transposed: i === 1,
}))
const kernel = createNoiseKernel()

/** Base weights that folds go into, as the overlay has them. */
function createWeights() {
  const weights = new Map(
    SHAPES.map(({ name, rows, cols }, i) => [
      name,
      Float32Array.from({ length: rows * cols }, (_, at) => Math.sin(at * 1.3 + i)),
    ]),
  )
  const after = (change: Fold) =>
    SHAPES.map(({ name, cols }) => {
      const w = weights.get(name)!
      const out = new Float32Array(w.length)
      kernel.change(new Uint8Array(w.buffer), 'F32', 0, cols, change(name), out)
      return [name, out] as const
    })
  return {
    after,
    fold(fold: Fold | null) {
      if (!fold) return 0
      for (const [name, folded] of after(fold)) weights.set(name, folded)
      return 1
    },
  }
}

interface Random {
  readonly options: MethodOptions
  /** null: skipped. */
  readonly steps: readonly (Update | null)[]
}

function randomRun(seed: number): Random {
  const random = seeded(seed)
  const count = (most: number) => 1 + Math.floor(random() * most)
  const directions = count(2)
  const skips = random() < 0.5 ? 0.8 : 0.2
  const steps = Array.from({ length: STEPS }, (_, step) => {
    const grads = Array.from({ length: directions }, () => 4 * random() - 2)
    const decay = seed % 2 ? 1 : Math.fround(1 - 0.01 * random())
    return random() < skips ? null : { step, lr: 0.1 * random(), grads, decay }
  })
  const selection = createSelection({ seed, layers: 3, layersPerStep: count(3) })
  const options: MethodOptions = {
    ...METHOD_DEFAULTS,
    seed,
    noise: seed % 3 ? 'gaussian' : 'rademacher',
    selection,
    directions,
    rank: count(3),
    window: count(5),
    foldWindows: count(3),
    replayWindow: count(4),
  }
  return { options, steps }
}

describe.each(METHOD_NAMES)('%s', (method) => {
  it('replays to the bits of the run, skipped steps or not', () => {
    let folds = 0
    for (let seed = 1; seed <= 60; seed++) {
      const { options, steps } = randomRun(seed)
      const trained = createMethod(method).start(options, SHAPES, kernel)
      const weights = createWeights()
      for (const [step, update] of steps.entries()) {
        folds += weights.fold(trained.begin(step))
        folds += weights.fold(trained.overdue(0))
        if (update) trained.push(update)

        // As `zo2 export` or --resume would at this moment.
        if (step !== STEPS - 1 && step % 7 !== 3) continue
        const replayed = createMethod(method).start(options, SHAPES, kernel)
        const copy = createWeights()
        for (const u of steps.slice(0, step + 1)) {
          if (!u) continue
          copy.fold(replayed.begin(u.step))
          replayed.push(u)
        }
        const expected = weights.after((name) => trained.change(name))
        expect(
          copy.after((name) => replayed.change(name)),
          `seed ${seed}, step ${step}`,
        ).toEqual(expected)
      }
    }
    expect(folds).toBeGreaterThan(60)
  })
})

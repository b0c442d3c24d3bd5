// Learning rates against their closed forms, as transformers' get_scheduler defines them, except
// that warm-up counts from 1: the first step already learns.
// Alone: npx vitest run test/schedule.test.ts

import { describe, expect, it } from 'vitest'
import { lrAt } from '../src/schedule.ts'

const base = { lr: 2e-4, steps: 100, warmupSteps: 0 }

describe('lrAt', () => {
  it('stays at lr without a schedule, also past the end', () => {
    const config = { ...base, lrSchedule: 'constant' as const }
    for (const step of [0, 1, 50, 99, 100, 1000]) expect(lrAt(step, config)).toBe(2e-4)
  })

  it('falls on a straight line from lr to 0 at `steps`, and stays there', () => {
    const config = { ...base, lrSchedule: 'linear' as const }
    for (let step = 0; step <= 100; step++) {
      expect(lrAt(step, config)).toBeCloseTo(2e-4 * (1 - step / 100), 12)
    }
    expect(lrAt(0, config)).toBe(2e-4)
    expect(lrAt(100, config)).toBe(0)
    expect(lrAt(150, config)).toBe(0)
  })

  it('falls along half a cosine from lr to 0 at `steps`, and stays there', () => {
    const config = { ...base, lrSchedule: 'cosine' as const }
    for (let step = 0; step <= 100; step++) {
      expect(lrAt(step, config)).toBeCloseTo(2e-4 * Math.cos((Math.PI * step) / 200) ** 2, 12)
    }
    expect(lrAt(50, config)).toBeCloseTo(1e-4, 12)
    expect(lrAt(150, config)).toBeCloseTo(0, 12)
  })

  it.each(['constant', 'linear', 'cosine'] as const)(
    'warms up in equal parts, then falls over the steps that are left: %s',
    (lrSchedule) => {
      const config = { ...base, lrSchedule, warmupSteps: 20 }
      for (let step = 0; step < 20; step++) {
        expect(lrAt(step, config)).toBeCloseTo((2e-4 * (step + 1)) / 20, 12)
      }
      expect(lrAt(19, config)).toBe(2e-4)
      expect(lrAt(20, config)).toBe(2e-4)
      const rest = { ...base, lrSchedule, steps: 80 }
      for (let step = 20; step <= 100; step++) {
        expect(lrAt(step, config)).toBeCloseTo(lrAt(step - 20, rest), 12)
      }
    },
  )

  it('is finite when all steps are warm-up', () => {
    for (const lrSchedule of ['constant', 'linear', 'cosine'] as const) {
      const config = { lr: 1, steps: 5, warmupSteps: 5, lrSchedule }
      for (let step = 0; step <= 5; step++) {
        expect(lrAt(step, config)).toBeGreaterThanOrEqual(0)
        expect(lrAt(step, config)).toBeLessThanOrEqual(1)
      }
    }
  })
})

// Learning rates against their closed forms, as transformers' get_scheduler defines them, except
// that warm-up counts from 1: the first step already learns.
// Alone: npx vitest run test/unit/schedule.test.ts

import { describe, expect, it } from 'vitest'
import { createEpsRule, lrAt } from '../../src/train/schedule.ts'

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

describe('eps', () => {
  const config = {
    ...base,
    eps: 1e-3,
    adaptiveEps: true,
    lrSchedule: 'constant',
    steps: 400,
  } as const
  const entry = (step: number, difference: number) => ({
    step,
    lr: 1,
    eps: 1,
    projected_grad: 0,
    loss_plus: 2 + difference,
    loss_minus: 2,
  })
  /** eps after `steps` steps whose loss difference is `difference`. */
  const after = (steps: number, difference: number, changed: object = {}) => {
    const rule = createEpsRule({ ...config, ...changed })
    for (let step = 0; step < steps; step++) rule.push(entry(step, difference))
    return rule.at(steps)
  }

  it('is the constant unless asked for', () => {
    expect(after(100, 0, { adaptiveEps: false })).toBe(1e-3)
  })
  it('grows by 1.25 a window of 20 while differences drown in rounding, up to 4 times', () => {
    expect(after(19, 1e-7)).toBe(1e-3)
    expect(after(20, 1e-7)).toBeCloseTo(1.25e-3, 12)
    expect(after(40, 1e-7)).toBeCloseTo(1.5625e-3, 12)
    expect(after(400, 1e-7)).toBeCloseTo(4e-3, 12)
  })
  it('shrinks by 0.9 a window while they are clear, down to a quarter', () => {
    expect(after(20, 1e-2)).toBeCloseTo(0.9e-3, 12)
    expect(after(1000, 1e-2)).toBeCloseTo(0.25e-3, 12)
  })
  it('stays where half of them are clear, and forgets skipped steps', () => {
    const rule = createEpsRule(config)
    for (let step = 0; step < 200; step++) rule.push(entry(step, step % 2 ? 1e-2 : 0))
    for (let step = 0; step < 200; step++) {
      rule.push({ ...entry(step, 0), loss_plus: null, loss_minus: null })
    }
    expect(rule.at(200)).toBe(1e-3)
  })
  it('follows the root of the rate without compounding', () => {
    const rule = createEpsRule({ ...config, warmupSteps: 100 })
    expect(rule.at(24)).toBeCloseTo(0.5e-3, 12)
    expect(rule.at(24)).toBeCloseTo(0.5e-3, 12)
    expect(rule.at(0)).toBeCloseTo(1e-4, 12)
    expect(rule.at(100)).toBe(1e-3)
  })
})

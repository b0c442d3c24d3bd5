// What a run is doing, from the calls that it makes below its folder: each call is noted as it begins,
// and what comes after a call is known from the order of a run's life. No help from the run itself.

import type { Call } from '../../test/helpers/file-calls.ts'

/** `loading`: before the first step, or weights made again for an export; `folding`: a fold thread is at work. */
export type Phase =
  'loading' | 'training' | 'evaluation' | 'saving' | 'folding' | 'export' | 'the end'

/** Those that a campaign must hit. */
export const TARGETS = ['training', 'evaluation', 'saving', 'folding', 'export'] as const
export type Target = (typeof TARGETS)[number]

export interface Rhythm {
  /** Evaluations and saved checkpoints come after every so many steps; 0: never. */
  readonly evalSteps: number
  readonly saveSteps: number
  readonly steps: number
  /** It evaluates before its first step. */
  readonly evalOnStart: boolean
  /** Jobs of one fold, whose thread is a single one. */
  readonly foldTiles: number
  /** Of the folder that an export writes. */
  readonly model: string
}

export interface PhaseTracker {
  /** Takes the next call in. */
  see(call: Call): void
  readonly phase: Phase
}

/** @param done steps in the journal when the process began */
export function trackPhase(rhythm: Rhythm, done: number): PhaseTracker {
  let at: Phase = 'loading'
  let [begun, ended, own] = [0, 0, false]
  const exports = () => at === 'saving' || at === 'export' || at === 'the end'
  const evaluationIsDue = () =>
    done === 0
      ? rhythm.evalOnStart
      : done === rhythm.steps || (rhythm.evalSteps > 0 && done % rhythm.evalSteps === 0)
  const saveIsDue = () => done > 0 && rhythm.saveSteps > 0 && done % rhythm.saveSteps === 0
  const next = () => (evaluationIsDue() ? 'evaluation' : 'training')
  /** The best weights may have to be made again before they are exported. */
  const afterwards = () => (done === rhythm.steps ? 'loading' : 'training')
  const model = new RegExp(`^(\\.?${rhythm.model})(/|\\.|$)`)

  return {
    see({ what, path }) {
      if (what === 'fold') {
        // The fold thread makes the tiles of an export too: that is the export's work.
        own = !exports()
        begun += own ? 1 : 0
      } else if (what === 'folded') ended += own ? 1 : 0
      else if (path.startsWith('runs/')) {
        if (what === 'open') at = next()
      } else if (what === 'appendFile') {
        // Every tile has been used by now.
        if (path === 'journal.jsonl') begun = ended = 0
        if (path === 'metrics.jsonl') done++
        if (path === 'metrics.jsonl') at = saveIsDue() ? 'saving' : next()
        else at = path === 'evals.jsonl' ? afterwards() : 'training'
      } else if (/^\.?(checkpoint|ckpt)-/.test(path)) {
        const own = !path.includes('/') && what === 'rename'
        // It gets its name; or an older one loses its own, which takes no time.
        if (own && path.startsWith('c')) at = path.startsWith('ckpt') ? afterwards() : next()
        else if (!own) at = 'saving'
      } else if (model.test(path)) {
        at = what === 'rename' && path === rhythm.model ? 'the end' : 'export'
      }
    },
    get phase() {
      const owed = Math.ceil(begun / rhythm.foldTiles) * rhythm.foldTiles
      return !exports() && ended < owed ? 'folding' : at
    },
  }
}

/** Jobs of one fold: those of the first step that has any. */
export function foldTilesOf(calls: readonly Call[]): number {
  const first = calls.findIndex(({ what }) => what === 'fold')
  if (first < 0) return 1
  const rest = calls.slice(first)
  const end = rest.findIndex(({ path, what }) => path === 'journal.jsonl' && what === 'appendFile')
  return Math.max(1, rest.slice(0, end).filter(({ what }) => what === 'folded').length)
}

/** A stay of a run in a phase. */
export interface Stay {
  readonly phase: Phase
  readonly ms: number
}

/** All stays of a whole run, in order. */
export function staysIn(calls: readonly Call[], rhythm: Rhythm): Stay[] {
  const tracker = trackPhase(rhythm, 0)
  const stays: { phase: Phase; ms: number }[] = []
  let since = calls[0]?.ms ?? 0
  let phase = tracker.phase
  for (const call of calls) {
    tracker.see(call)
    if (tracker.phase === phase) continue
    stays.push({ phase, ms: call.ms - since })
    ;[phase, since] = [tracker.phase, call.ms]
  }
  return stays
}

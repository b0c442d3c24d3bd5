// Beam search over one prompt as a pure function of logits: which texts are kept, which are done and
// which is best, as Hugging Face's BeamSearchScorer does it (transformers 4.45, early_stopping=False).
// Scores are sums of log-probabilities in f64; a finished text's is divided by length^lengthPenalty.

import { minOf } from '../util/extremes.ts'

interface BeamOptions {
  /** Texts kept at each step. */
  readonly beams: number
  /** Above 0 favours long texts, below 0 short ones. */
  readonly lengthPenalty: number
  /** Tokens that end a text at most; so many more candidates are looked at. */
  readonly endings: number
  /** The finished text (often without its last token) if the tokens end one, else null. */
  readonly finished: (tokens: readonly number[]) => readonly number[] | null
}

interface Text {
  readonly tokens: readonly number[]
  readonly score: number
}

/** The state of a search; `beams` are the texts under way, at first the empty one. */
interface Search {
  readonly beams: readonly Text[]
  readonly done: boolean
  /**
   * Takes the logits [V] after each beam.
   * @returns for each new beam the index of the one that it continues
   */
  step(logits: readonly Float32Array[]): number[]
  /** The best texts so far, finished or under way, best first; at most `beams`. */
  best(): (readonly number[])[]
}

/** A search of `beams` texts over one prompt. */
export function createSearch({ beams: width, lengthPenalty, ...options }: BeamOptions): Search {
  let beams: readonly Text[] = [{ tokens: [], score: 0 }]
  let done = false
  /** Finished texts with their scores by length, at most `width`, in the order they came. */
  let hypotheses: Text[] = []
  const keep = (score: number, length: number, tokens: readonly number[]) => {
    hypotheses.push({ tokens, score: score / length ** lengthPenalty })
    if (hypotheses.length <= width) return
    // Of equal ones the one that was there stays.
    const worst = hypotheses.reduce((a, b) => (b.score <= a.score ? b : a))
    hypotheses = hypotheses.filter((each) => each !== worst)
  }
  return {
    get beams() {
      return beams
    },
    get done() {
      return done
    },
    step(logits) {
      const candidates = best(beams, logits, Math.max(2, 1 + options.endings) * width)
      const next: Text[] = []
      const parents: number[] = []
      for (const [rank, { beam, token, score }] of candidates.entries()) {
        const tokens = [...beams[beam]!.tokens, token]
        const text = options.finished(tokens)
        if (text) {
          if (rank < width) keep(score, tokens.length, text)
          continue
        }
        next.push({ tokens, score })
        parents.push(beam)
        if (next.length === width) break
      }
      const length = beams[0]!.tokens.length + 1
      const attainable = candidates[0]!.score / length ** lengthPenalty
      done =
        next.length === 0 ||
        (hypotheses.length === width && minOf(hypotheses.map((h) => h.score)) >= attainable)
      beams = next
      return parents
    },
    best() {
      if (!done) beams.forEach(({ tokens, score }) => keep(score, tokens.length, tokens))
      // Of equal ones the last to come.
      const sorted = hypotheses.toReversed().toSorted((a, b) => b.score - a.score)
      return sorted.map(({ tokens }) => tokens)
    },
  }
}

interface Candidate {
  readonly beam: number
  readonly token: number
  readonly score: number
}

/** The `count` best continuations of all beams by a token, best first; of equals the first. */
function best(beams: readonly Text[], logits: readonly Float32Array[], count: number) {
  const found: Candidate[] = []
  beams.forEach(({ score: before }, beam) => {
    const row = logits[beam]!
    const norm = before - logSumExp(row)
    let least = found.length < count ? -Infinity : found.at(-1)!.score
    for (let token = 0; token < row.length; token++) {
      const score = norm + row[token]!
      if (!(score > least)) continue
      const place = found.findIndex((each) => each.score < score)
      found.splice(place < 0 ? found.length : place, 0, { beam, token, score })
      if (found.length > count) found.pop()
      if (found.length === count) least = found.at(-1)!.score
    }
  })
  return found
}

function logSumExp(row: Float32Array): number {
  const most = row.reduce((a, b) => Math.max(a, b))
  return most + Math.log(row.reduce((sum, logit) => sum + Math.exp(logit - most), 0))
}

// SQuAD's scores of a generated answer, as its official evaluation has them: both texts in lower
// case, without punctuation, articles and extra spaces; words compared as a bag.
// Source: SQuAD's evaluate-v1.1.py; princeton-nlp/MeZO, large_models/metrics.py.

import { maxOf } from '../../util/extremes.ts'

/** ASCII punctuation, as Python's string.punctuation. */
const PUNCTUATION = /[!-/:-@[-`{-~]/g
// \b of JavaScript knows ASCII letters only; Python's knows them all.
const ARTICLE = /(?<![\p{L}\p{N}_])(a|an|the)(?![\p{L}\p{N}_])/gu

/** The words that are compared. */
function normalizedWords(text: string): string[] {
  const plain = text.toLowerCase().replace(PUNCTUATION, '').replace(ARTICLE, ' ').trim()
  return plain === '' ? [] : plain.split(/\s+/)
}

/** Whether the answer is one of the golds after normalisation. */
export function exactMatch(answer: string, golds: readonly string[]): boolean {
  const said = normalizedWords(answer).join(' ')
  return golds.some((gold) => normalizedWords(gold).join(' ') === said)
}

/** The best F1 of words over the golds; 0 where no word is shared, also between empty texts. */
export function f1Score(answer: string, golds: readonly string[]): number {
  // How QuAC and CoQA spell that there is no answer: then only saying so is right.
  if (golds[0] === 'CANNOTANSWER' || golds[0] === 'no answer') {
    return Number(exactMatch(answer, golds.slice(0, 1)))
  }
  const said = normalizedWords(answer)
  return maxOf(golds.map((gold) => wordF1(said, normalizedWords(gold))))
}

function wordF1(said: readonly string[], gold: readonly string[]): number {
  const left = new Map<string, number>()
  for (const word of gold) left.set(word, (left.get(word) ?? 0) + 1)
  let same = 0
  for (const word of said) {
    const count = left.get(word) ?? 0
    if (count > 0) same++
    left.set(word, count - 1)
  }
  if (same === 0) return 0
  const [precision, recall] = [same / said.length, same / gold.length]
  return (2 * precision * recall) / (precision + recall)
}

// Added tokens in a text, found before anything else is: the longest at the leftmost place, with the
// spaces beside it that belong to it. As Hugging Face `tokenizers` does it (added_vocabulary.rs): those
// that are not normalized in the text as it is, the others in what a normalizer makes of the rest.

import type { AddedToken } from './tokenizer-parts.ts'

/** Text between added tokens, or the id of one. */
export type Section = { readonly text: string; readonly start: number } | { readonly id: number }

type Split = (text: string) => Section[]

interface Node {
  readonly next: Map<number, Node>
  token?: AddedToken
}

/**
 * Splits a text at added tokens.
 * @param spelled how a token stands in the texts that will come
 */
export function addedSplitter(
  tokens: readonly AddedToken[],
  spelled: (content: string) => string = (content) => content,
): Split {
  if (tokens.length === 0) return (text) => (text === '' ? [] : [{ text, start: 0 }])
  const root: Node = { next: new Map() }
  for (const token of tokens) insert(root, spelled(token.content), token)
  return (text) => split(text, root)
}

function insert(root: Node, content: string, token: AddedToken): void {
  let node = root
  for (let i = 0; i < content.length; i++) {
    const unit = content.charCodeAt(i)
    const next = node.next.get(unit) ?? { next: new Map() }
    node.next.set(unit, next)
    node = next
  }
  node.token ??= token
}

// Not JavaScript's \s, which differs in U+0085 and U+FEFF.
const SPACE = /\p{White_Space}/u

function split(text: string, root: Node): Section[] {
  const sections: Section[] = []
  let done = 0
  let at = 0
  while (at < text.length) {
    const found = longestAt(text, at, root)
    if (!found) {
      at++
      continue
    }
    const { token, end } = found
    let start = at
    while (token.lstrip && start > done && SPACE.test(text[start - 1]!)) start--
    if (start > done) sections.push({ text: text.slice(done, start), start: done })
    sections.push({ id: token.id })
    done = end
    while (token.rstrip && done < text.length && SPACE.test(text[done]!)) done++
    // What follows is looked for from the token's own end, also among spaces that belong to it.
    at = end
  }
  if (done < text.length) sections.push({ text: text.slice(done), start: done })
  return sections
}

/** The longest token that stands at a place. */
function longestAt(
  text: string,
  start: number,
  root: Node,
): { token: AddedToken; end: number } | undefined {
  let node: Node | undefined = root
  let found: { token: AddedToken; end: number } | undefined
  for (let end = start; node; end++) {
    if (node.token) found = { token: node.token, end }
    node = node.next.get(text.charCodeAt(end))
  }
  return found
}

// Copies of the fixtures' model folders with changed files, and the sentence with which something refuses.

import { cpSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect } from 'vitest'
import { UserError } from '../../src/util/errors.ts'
import { temporaryFolder } from './hostile.ts'

/** What all copies are in. */
export const root = temporaryFolder()
export const FIXTURES = fileURLToPath(new URL('../fixtures/', import.meta.url))
export const OPT = join(FIXTURES, 'layouts/pre-norm-tied')
export const GPT2 = join(FIXTURES, 'gpt/gpt2-hub')

export type Files = Readonly<Record<string, string | object | null>>

/** A copy of a fixture with some files in place of its own; null takes one away. */
export function folder(source: string, files: Files = {}): string {
  const dir = mkdtempSync(join(root, 'model-'))
  cpSync(source, dir, { recursive: true })
  for (const [name, content] of Object.entries(files)) {
    if (content === null) rmSync(join(dir, name))
    else
      writeFileSync(
        join(dir, name),
        typeof content === 'string' ? content : JSON.stringify(content),
      )
  }
  return dir
}

/** The sentence that refuses; fails where there is none, or it is more than a line. */
export async function sentence(work: () => unknown): Promise<string> {
  const error: unknown = await Promise.resolve()
    .then(work)
    .then(
      () => null,
      (reason: unknown) => reason,
    )
  if (!(error instanceof UserError))
    throw new Error('not refused as a user error', { cause: error })
  expect(error.message).toMatch(/^[^\n\r\u001b]{10,600}$/)
  return error.message
}

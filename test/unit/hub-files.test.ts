// Which small files travel beside the weights, for downloads and copies alike; and what errors show of a
// hub's address.
// Alone: npx vitest run test/unit/hub-files.test.ts

import { mkdtempSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, describe, expect, it, vi } from 'vitest'
import { copyModelFiles } from '../../src/checkpoint/convert.ts'
import { asTransient, openHub } from '../../src/hub/api.ts'
import { SMALL_FILES, smallFiles } from '../../src/hub/files.ts'
import { folder, OPT, root, sentence } from '../helpers/model-copies.ts'

afterEach(() => vi.unstubAllEnvs())

describe('the small files beside the weights', () => {
  it('are the same ones for downloads and copies', async () => {
    const names = new Set([...SMALL_FILES, 'README.md', 'adapter_config.json'])
    const dir = folder(OPT, Object.fromEntries([...names].map((name) => [name, `"${name}"`])))
    const copy = mkdtempSync(join(root, 'copy-'))
    await copyModelFiles({ dir, config: {}, files: [] }, copy)
    const wanted = [
      'tokenizer.model',
      'chat_template.jinja',
      'meta.json',
      'added_tokens.json',
      'generation_config.json',
    ]
    expect(SMALL_FILES).toEqual(expect.arrayContaining(wanted))
    expect(readdirSync(copy).sort()).toEqual([...SMALL_FILES].sort())
    expect(smallFiles(names)).toEqual(SMALL_FILES)
  })
})

describe('the address of a hub', () => {
  it('is told in errors without user, password and what is behind its path', () => {
    const { signal } = new AbortController()
    const about = (text: string, cause?: Error) =>
      asTransient(new TypeError(text, { cause }), signal).message
    const url = 'https://me:hunter2@hub.example/a/b?X-Amz-Signature=hunter2#hunter2'
    expect(
      about(`Request cannot be constructed from a URL that includes credentials: ${url}`),
    ).toBe(
      'Request cannot be constructed from a URL that includes credentials: https://hub.example/a/b',
    )
    expect(about('fetch failed', new Error(`bad "${url}", ${url}`))).toBe(
      'fetch failed: bad "https://hub.example/a/b", https://hub.example/a/b',
    )
    expect(about('the reply ended at https://hub.example/a')).toBe(
      'the reply ended at https://hub.example/a',
    )
  })

  it.each([
    'https://me:hunter2@hub.example',
    'https://:hunter2@hub.example',
    'https://hunter2@hub.example/api',
    'https://hub.example/?token=hunter2',
    'https://hub.example/#hunter2',
    'me:hunter2@hub.example',
    'ftp://me:hunter2@hub.example',
    'http://me:hunter2@ hub',
  ])('with something secret in it is refused without a word of it: %s', async (endpoint) => {
    vi.stubEnv('HF_ENDPOINT', endpoint)
    const { signal } = new AbortController()
    const message = await sentence(() => openHub('o/m', signal, () => {}))
    expect(message).toContain('HF_ENDPOINT should be')
    expect(message).not.toContain('hunter2')
    expect(message).not.toContain('me:')
  })
})

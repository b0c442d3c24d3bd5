// All that noise needs of Node: the bytes of noise.wasm and SHA-256. No other file of this folder, nor
// what they import, touches Node, so that a browser needs another version of this file alone.

import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'

/** noise.as.ts compiled, from beside this file. */
export const noiseModule = (): Uint8Array<ArrayBuffer> =>
  readFileSync(new URL('./noise.wasm', import.meta.url))

/** SHA-256 of a text in UTF-8. */
export const sha256 = (text: string): Uint8Array => createHash('sha256').update(text).digest()

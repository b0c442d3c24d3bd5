// Vitest compares typed arrays element by element, a microsecond each; here those of one type and the same
// bytes are equal at once. All others go the usual way. Read before every test file (vitest.config.ts).

import { expect } from 'vitest'

const bytesOf = ({ buffer, byteOffset, byteLength }: ArrayBufferView) =>
  Buffer.from(buffer as ArrayBuffer, byteOffset, byteLength)

/** Buffer.compare takes megabytes a millisecond, and has the lengths in it. */
const sameBytes = (a: ArrayBufferView, b: ArrayBufferView) =>
  a.constructor === b.constructor && Buffer.compare(bytesOf(a), bytesOf(b)) === 0

expect.addEqualityTesters([
  (a: unknown, b: unknown) =>
    ArrayBuffer.isView(a) && ArrayBuffer.isView(b) && sameBytes(a, b) ? true : undefined,
])

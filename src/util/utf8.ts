// UTF-8 from outside: decoding that says which byte is wrong.
// Reading the bytes is src/io/read.ts's.

import { UserError } from './errors.ts'

/**
 * Bytes of a whole file as text, without a byte order mark.
 * @throws UserError naming the first byte that is no UTF-8
 */
export function decodeUtf8(bytes: Uint8Array, path: string): string {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes)
  } catch (cause) {
    throw notUtf8(bytes, 0, path, cause)
  }
}

/** The sentence about bytes that are no UTF-8; they begin at `offset` of the file, with a character. */
export function notUtf8(
  bytes: Uint8Array,
  offset: number,
  path: string,
  cause: unknown,
): UserError {
  const at = firstBadByte(bytes)
  const byte = `0x${bytes[at]!.toString(16).padStart(2, '0')}`
  const [a, b] = bytes
  const wide = offset === 0 && ((a === 0xff && b === 0xfe) || (a === 0xfe && b === 0xff))
  const found = wide ? 'it looks like UTF-16: ' : ''
  return new UserError(
    `${path} is not UTF-8 text (byte ${byte} at offset ${offset + at}): ${found}convert it to UTF-8`,
    { cause },
  )
}

/** Where the first sequence begins that is no character. */
function firstBadByte(bytes: Uint8Array): number {
  const decodes = (length: number, isWhole: boolean): boolean => {
    try {
      const decoder = new TextDecoder('utf-8', { fatal: true })
      decoder.decode(bytes.subarray(0, length), { stream: !isWhole })
      return true
    } catch {
      return false
    }
  }
  // The longest beginning that is good as far as it goes ends before the byte that gives it away.
  let [good, bad] = [0, bytes.length + 1]
  while (bad - good > 1) {
    const middle = Math.floor((good + bad) / 2)
    if (decodes(middle, false)) good = middle
    else bad = middle
  }
  while (!decodes(good, true)) good--
  return good
}

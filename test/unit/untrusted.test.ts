// Values from outside in sentences: parsed to a bounded depth, shown in one printable line, whatever
// they are.
// Alone: npx vitest run test/unit/untrusted.test.ts

import { describe as suite, expect, it } from 'vitest'
import { UserError } from '../../src/util/errors.ts'
import { maxOf, minOf } from '../../src/util/extremes.ts'
import { describe, excerpt, listing, parseJson, quote } from '../../src/util/untrusted.ts'
import { decodeUtf8 } from '../../src/util/utf8.ts'

/** `levels` arrays, one in another. */
const nested = (levels: number) => '['.repeat(levels) + ']'.repeat(levels)

suite('JSON from outside', () => {
  it('may nest 100 deep and no deeper, however long the text is', () => {
    expect(parseJson(nested(100), 'x')).toHaveLength(1)
    for (const text of [nested(101), nested(20_000), '{"a":'.repeat(5_000_000)]) {
      expect(() => parseJson(text, 'x')).toThrow(
        /^x: not usable as JSON: nested more than 100 deep$/,
      )
    }
  })

  it('has no depth within strings, whose quotes may be escaped', () => {
    const brackets = '['.repeat(500)
    for (const text of [brackets, `"${brackets}`, `\\"${brackets}\\`, `\\\\"${brackets}`]) {
      expect(parseJson(JSON.stringify([text, text]), 'x')).toEqual([text, text])
    }
    expect(() => parseJson(`"\\\\"${nested(101)}`, 'x')).toThrow('100 deep')
    expect(() => parseJson('"never closed [[[', 'x')).toThrow(/^x: not valid JSON: /)
  })

  it('that is none is complained about without a piece of it', () => {
    const secret = 'pass\u001b[31mword'
    for (const text of [secret, `{"a": ${secret}}`, `[1,\n2,\n${secret}`, `{"${secret}"`]) {
      const error = caught(() => parseJson(text, 'x'))
      expect(error.message).toMatch(/^x[:\d]*: not valid JSON: [ -~]+$/)
      expect(error.message).not.toContain('word')
    }
    expect(caught(() => parseJson('[1,\n,2]', 'x', 'mend it')).message).toMatch(/; mend it$/)
  })
})

suite('a value in a sentence', () => {
  it('is one printable line', () => {
    const message = new UserError('a\nb\r\u001b[2J\u0085\u2028\u202e"é日').message
    expect(message).toBe('a\\nb\\r\\u001b[2J\\u0085\\u2028\\u202e"é日')
    expect(quote('a\nb\u007f')).toBe('"a\\nb\\u007f"')
    expect(quote('x'.repeat(200))).toHaveLength(82)
  })

  it('is looked at as far as it is shown', () => {
    let looks = 0
    const wide = new Proxy(
      Array.from({ length: 100_000 }, (_, i) => i),
      {
        get: (target, key) => (looks++, Reflect.get(target, key) as unknown),
      },
    )
    expect(excerpt(wide)).toMatch(/^\[0,1,2,3,.*\.\.\.$/)
    expect(looks).toBeLessThan(100)
    const circle: unknown[] = [1]
    circle.push(circle)
    expect(excerpt(circle)).toHaveLength(60)
    expect(excerpt({ a: [1, 'b\n', null, 2n ** 60n], b: { c: true } })).toBe(
      '{"a":[1,"b\\n",null,1152921504606846976],"b":{"c":true}}',
    )
    expect([undefined, NaN, -0, [], {}, ''].map(excerpt)).toEqual([
      ...['undefined', 'NaN', '0', '[]', '{}', '""'],
    ])
    expect([describe([1, 2]), describe({}), describe(null)]).toEqual([
      'a list of 2',
      'an object',
      'null',
    ])
  })

  it('is one of the first eight names', () => {
    expect(listing([])).toBe('(none)')
    expect(listing(['text', 'a b', 'é', 'x\ny'])).toBe('text, "a b", é, "x\\ny"')
    const names = Array.from({ length: 20_000 }, (_, i) => `c${i}`)
    expect(listing(names)).toBe('c0, c1, c2, c3, c4, c5, c6, c7 and 19992 more')
  })
})

suite('UTF-8', () => {
  it('that is wrong is named by its first wrong byte', () => {
    const good = new TextEncoder().encode('é日😀x'.repeat(50))
    expect(decodeUtf8(good, 'x')).toBe('é日😀x'.repeat(50))
    // Every kind of wrong sequence, after good ones of every length.
    const wrong = [
      [0xff],
      [0x80],
      [0xc3],
      [0xc3, 0x28],
      [0xe6, 0x97],
      [0xf0, 0x9f, 0x98],
      [0xed, 0xa0, 0x80],
      [0xc0, 0x80],
      [0xf5, 0x80, 0x80, 0x80],
    ]
    for (const bytes of wrong) {
      for (const before of ['', 'a', 'é', '日', '😀', 'x'.repeat(1000)]) {
        const head = new TextEncoder().encode(before)
        const first = `0x${bytes[0]!.toString(16)} at offset ${head.length})`
        const all = Uint8Array.from([...head, ...bytes])
        expect(caught(() => decodeUtf8(all, 'x')).message).toContain(first)
        expect(caught(() => decodeUtf8(Uint8Array.from([...all, 0x61]), 'x')).message).toContain(
          first,
        )
      }
    }
  })
})

suite('the largest and the smallest', () => {
  it('are found in lists of any length', () => {
    const numbers = Float64Array.from({ length: 1_000_000 }, (_, i) => (i * 7919) % 1_000_003)
    expect(maxOf(numbers)).toBe(numbers.reduce((a, b) => Math.max(a, b)))
    expect(minOf(numbers)).toBe(0)
    expect([maxOf([]), minOf([]), maxOf([-5], 0), maxOf([1, NaN, 2])]).toEqual([
      -Infinity,
      Infinity,
      0,
      NaN,
    ])
  })
})

function caught(work: () => unknown): UserError {
  try {
    work()
  } catch (error) {
    if (error instanceof UserError) return error
    throw error
  }
  throw new Error('nothing was thrown')
}

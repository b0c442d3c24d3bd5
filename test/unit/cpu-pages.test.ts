// Huge pages under the cpu device's large memory: the hint reaches the system for large memory alone, and
// changes no content.
// Alone: npx vitest run test/unit/cpu-pages.test.ts

import { existsSync, readFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { onHugePages } from '../../src/device/cpu/huge-pages.ts'

const MiB = 2 ** 20

/** Mappings of this process that were advised to be on huge pages, in bytes of address space. */
function advisedBytes(): number {
  const mappings = readFileSync('/proc/self/smaps', 'utf8').split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m)
  return mappings
    .filter((text) => / hg( |$)/m.test(/^VmFlags:.*$/m.exec(text)?.[0] ?? ''))
    .reduce((sum, text) => sum + Number(/^Size: +(\d+) kB/m.exec(text)![1]) * 1024, 0)
}

test('an array keeps its place, length and contents', () => {
  for (const array of [
    new Float32Array(8 * MiB).fill(3),
    new Uint16Array(new SharedArrayBuffer(8 * MiB), 6, 3 * MiB).fill(3),
    new Uint8Array(5).fill(3),
  ]) {
    const { buffer, byteOffset, length } = array
    expect(onHugePages(array)).toBe(array)
    expect([array.buffer, array.byteOffset, array.length]).toEqual([buffer, byteOffset, length])
    expect(array.every((value: number) => value === 3)).toBe(true)
  }
})

const offered = existsSync('/sys/kernel/mm/transparent_hugepage')

test('the system is asked for huge pages for large memory alone', () => {
  if (!offered) return expect(onHugePages(new Uint8Array(64 * MiB))).toHaveLength(64 * MiB)
  const before = advisedBytes()
  const small = onHugePages(new Uint8Array(MiB))
  expect(advisedBytes()).toBe(before)
  const large = onHugePages(new Uint8Array(new SharedArrayBuffer(64 * MiB)))
  expect(advisedBytes() - before).toBeGreaterThan(60 * MiB)
  expect(small.length + large.length).toBe(65 * MiB)
})

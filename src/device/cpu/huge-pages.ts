// Huge pages for the large memory of the cpu device. Rows of a matrix are further apart than an ordinary
// page is long, so that products wait for the processor's few address translations (CHANGELOG,
// 2026-11-28). A hint to Linux, where it is asked for only by programs that say so; elsewhere nothing.

import { fromLibc } from '../../util/koffi.ts'

const MADV_HUGEPAGE = 14
/** Of memory any smaller, not much would lie on whole huge pages (2 MiB each on most processors). */
const LEAST_BYTES = 4 * 2 ** 20
/** A multiple of every page size. */
const ALIGNMENT = 65_536

/** Null: there is none to ask. The handle is held, or koffi would unload the library. */
let libc: ReturnType<typeof openLibc> | undefined

/** The array, whose pages become huge ones where the system has them to give. Its contents stay. */
export function onHugePages<A extends Float32Array | Uint16Array | Uint8Array>(array: A): A {
  if (array.byteLength < LEAST_BYTES) return array
  if (libc === undefined) libc = openLibc()
  if (libc) {
    const bytes = new Uint8Array(array.buffer, array.byteOffset, array.byteLength)
    const skip = Number(-libc.move(bytes, bytes, 0) & BigInt(ALIGNMENT - 1))
    const length = Math.floor((bytes.length - skip) / ALIGNMENT) * ALIGNMENT
    const first = libc.move(bytes.subarray(skip), bytes, 0)
    libc.advise(first, length, MADV_HUGEPAGE) // refused: ordinary pages, as before
  }
  return array
}

const openLibc = () =>
  fromLibc((handle) => ({
    handle,
    /** memmove of nothing: the address of an array. */
    move: handle.func('void *memmove(void *to, const void *from, size_t bytes)') as (
      to: Uint8Array,
      from: Uint8Array,
      bytes: number,
    ) => bigint,
    advise: handle.func('int madvise(void *address, size_t bytes, int advice)'),
  }))

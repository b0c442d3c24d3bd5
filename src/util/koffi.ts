// Native libraries by koffi, set up once for all of them. koffi's own code for a platform is a package
// without an install script (some package managers refuse packages with one), so that it is asked for
// directly; the package koffi gives the types. What is called is said where it is called: device/cpu
// (ONNX Runtime, huge pages) and io/stderr.ts.

import { createRequire } from 'node:module'
import type { LibraryHandle } from 'koffi'
import { UserError } from './errors.ts'
import { PLATFORM } from './native-code.ts'

type Koffi = (typeof import('koffi'))['default']

/** Kernels keep packed panels on the stack, of which koffi's own 128 KiB would leave little. */
const STACK_BYTES = 2 * 2 ** 20

let loaded: Koffi | undefined

/**
 * koffi, for calls and memory.
 * @throws UserError if its package for this platform is not installed.
 */
export function koffi(): Koffi {
  if (loaded) return loaded
  const name = `@koromix/koffi-${PLATFORM}`
  let found: Koffi
  try {
    found = createRequire(import.meta.url)(name) as Koffi
  } catch (cause) {
    throw new UserError(
      `the package ${name}, which the cpu device needs, cannot be loaded: install zo2 again with ` +
        'optional dependencies, or use --device webgpu',
      { cause },
    )
  }
  found.config({ async_stack_size: STACK_BYTES })
  return (loaded = found)
}

/** What `declare` finds in Linux's C library; null elsewhere, or where that is another or lacks it. */
export function fromLibc<Functions>(declare: (libc: LibraryHandle) => Functions): Functions | null {
  if (process.platform !== 'linux') return null
  try {
    return declare(openLibrary('libc.so.6'))
  } catch {
    return null
  }
}

/** Loads a library; the handle is to be held, for koffi unloads a library whose handle is collected. */
export const openLibrary = (path: string): LibraryHandle => koffi().load(path)

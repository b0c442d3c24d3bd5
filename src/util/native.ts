// Native libraries by koffi, set up once for all of them. What is called in them is said where it is
// called: device/cpu (ONNX Runtime, huge pages) and io/stderr.ts.

import koffi, { type LibraryHandle } from 'koffi'

/** Kernels keep packed panels on the stack, of which koffi's own 128 KiB would leave little. */
const STACK_BYTES = 2 * 2 ** 20

let ready = false

/** Loads a library; the handle is to be held, for koffi unloads a library whose handle is collected. */
export function openLibrary(path: string): LibraryHandle {
  if (!ready) koffi.config({ async_stack_size: STACK_BYTES })
  ready = true
  return koffi.load(path)
}

// All that the webgpu device needs of Node: the package that brings Dawn, quietly, and slower polling
// on software adapters. No other file of this folder, nor what they import, touches Node, so that a
// browser needs another version of this file alone. Facts: npm webgpu 0.6.2 (Dawn).

import { setTimeout } from 'node:timers'
import { pathToFileURL } from 'node:url'
import { withoutChatter } from '../../io/stderr.ts'
import { UserError } from '../../util/errors.ts'
import { nativeFile, PLATFORM } from '../../util/native-code.ts'

// Instances of Dawn by their flags, for the life of the process. Adapters, devices and pending
// promises poll through a bare pointer to their instance: once it is collected, the next poll reads
// freed memory (seen: a segmentation fault, an abort in futex, a hang). Closing a device does not
// end its promises at once, so that no moment before the exit is safe.
const instances = new Map<string, GPU>()

/** zo2's own copy of the package webgpu, else an installed one. */
function dawnModule(): string {
  const own = nativeFile('webgpu/index.js')
  return own === undefined ? 'webgpu' : pathToFileURL(own).href
}

/** The instance of Dawn with these flags. Throws UserError where the package cannot be loaded. */
export async function openGpu(flags: readonly string[]): Promise<GPU> {
  const key = flags.join(',')
  try {
    const { create } = (await import(dawnModule())) as typeof import('webgpu')
    const gpu = instances.get(key) ?? create([...flags])
    instances.set(key, gpu)
    return gpu
  } catch (cause) {
    throw new UserError(
      `this installation of zo2 has no Dawn for ${PLATFORM}, or it cannot be loaded: run "npm install ` +
        'webgpu" beside zo2 ("npm run build" in a clone of zo2), or use --device cpu',
      { cause },
    )
  }
}

// What Dawn prints to stderr of every machine, whatever it is asked for: limits of the adapter that it
// cuts down to its own (native/Limits.cpp), and that there is no Vulkan or no driver for it, with the
// place in its source. There is no option and no callback for these lines (common/Log.cpp). Other
// faults of a driver stay.
const PLACE = String.raw`(?: {4}at .*\n)*\n?`
const HARMLESS = [
  /^Warning: maxDynamic\w+PerPipelineLayout artificially reduced from \d+ to \d+ .*\n/gm,
  new RegExp(`^Warning: Couldn't load Vulkan: .*cannot open shared object.*\\n${PLACE}`, 'gm'),
  /^Warning: vkCreateInstance: Found no drivers!\n/gm,
  new RegExp(
    `^Warning: vkCreateInstance failed with VK_ERROR_INCOMPATIBLE_DRIVER\\n${PLACE}`,
    'gm',
  ),
]

/** gpu.requestAdapter, which looks for all adapters before it returns. */
export const requestQuietly = (
  gpu: GPU,
  options: GPURequestAdapterOptions,
): Promise<GPUAdapter | null> => withoutChatter(HARMLESS, () => gpu.requestAdapter(options))

/** What installs an adapter where there is none. */
export const INSTALL =
  process.platform === 'linux'
    ? 'install the GPU driver, or run "bash scripts/setup-vulkan.sh" for a software adapter'
    : "install the GPU's driver"

// While a promise of Dawn is pending, its Node binding polls from a setImmediate loop that burns a
// whole core. On a software adapter that core is the "GPU", so there the poll is slowed to once a
// millisecond. Only native callbacks are slowed; everybody else keeps the real setImmediate. A poll
// that never comes ends all promises of its instance for good (Dawn queues no second one), so that
// the timer is the process's own, not one that somebody may have put into the global scope.
let users = 0
let hurried = 0
let original: typeof globalThis.setImmediate | undefined

const isNative = (callback: unknown) =>
  Function.prototype.toString.call(callback).includes('[native code]')

/** Slows Dawn's polling until the returned function is called; nests. */
export function throttlePolling(): () => void {
  if (users++ === 0) {
    const immediate = globalThis.setImmediate
    original = immediate
    const throttled = (callback: (...args: unknown[]) => void, ...args: unknown[]) =>
      isNative(callback) && hurried === 0
        ? setTimeout(callback, 1, ...args)
        : immediate(callback, ...args)
    globalThis.setImmediate = Object.assign(throttled, immediate) as unknown as typeof immediate
  }
  let active = true
  return () => {
    if (!active) return
    active = false
    if (--users === 0 && original) globalThis.setImmediate = original
  }
}

/** Polls without a pause while `body` runs, so that its waits end at once. */
export async function hurryPolling(body: () => Promise<void>): Promise<void> {
  hurried++
  try {
    await body()
  } finally {
    hurried--
  }
}

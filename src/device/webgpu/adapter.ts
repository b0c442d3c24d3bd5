// Finds an adapter and opens a WebGPU device on it: hardware unless a name asks for something else.
// Owns Dawn's flags and the limits asked for. Facts: npm webgpu 0.6.2 (Dawn).

import { UserError } from '../../util/errors.ts'
import { PARAM_BYTES } from './kernel.ts'
import { INSTALL, openGpu, requestQuietly, throttlePolling } from './node.ts'

interface AdapterEntry {
  /** Name as the driver gives it, e.g. "llvmpipe (LLVM 15.0.6, 256 bits)". */
  readonly name: string
  /** Dawn's backend: vulkan, metal, d3d12, ... */
  readonly backend: string
  readonly software: boolean
}

export interface OpenAdapter {
  readonly gpu: GPUDevice
  readonly name: string
  readonly software: boolean
  /** Driver, architecture: what a bug report needs. */
  readonly driver: string
  /** All that tells this adapter and its driver from others. */
  readonly id: string
  /** Invocations of a subgroup; 0 if shaders cannot use subgroups, or if the number varies. */
  readonly lanes: number
  /** Whether shaders can have f16. */
  readonly halves: boolean
  /** Largest storage binding, in bytes. */
  readonly maxBindingBytes: number
  /** Resolves with what to tell the user if the device goes away by itself; else never. */
  readonly lost: Promise<UserError>
  /** Destroys the device and lets the process exit. Safe to call twice. */
  close(): void
}

// Without it Dawn clears a weight buffer on the GPU at its first partial write, which closes the
// direct-upload path for good. Every buffer here is written before it is read.
const DISABLED = 'disable-dawn-features=lazy_clear_resource_on_first_use'

// Timestamps are else rounded to 65 us.
const DISABLED_TIMED = `${DISABLED},timestamp_quantization`

/** Feature of a device that can be timed. */
export const TIMESTAMPS = 'timestamp-query'

// Dawn then puts discrete GPUs in front of integrated ones.
const BEST_FIRST = { powerPreference: 'high-performance' } as const

// Dawn refuses this name and answers with the names it has.
const NO_ADAPTER = 'adapter=zo2 lists adapters'

const createGpu = (own: readonly string[], timed = false) =>
  openGpu([timed ? DISABLED_TIMED : DISABLED, ...own])

const isSoftware = (name: string) => /llvmpipe|lavapipe|swiftshader|basic render/i.test(name)

/** Every adapter that Dawn finds, best first, software included; empty when there is no driver. */
export async function listAdapters(): Promise<AdapterEntry[]> {
  const gpu = await createGpu([NO_ADAPTER])
  try {
    await requestQuietly(gpu, BEST_FIRST)
    return []
  } catch (error) {
    const found = String(error).matchAll(/backend: '([^']*)', name: '(.*)'/g)
    return [...found].map(([, backend, name]) => ({
      name: name!,
      backend: backend!,
      software: isSoftware(name!),
    }))
  }
}

/** What is enough of a name to type. */
const shortName = ({ name }: AdapterEntry) => name.split(' ')[0]!

async function choose(wanted: string | undefined): Promise<AdapterEntry> {
  const all = await listAdapters()
  if (all.length === 0) {
    throw new UserError(`no WebGPU adapter was found: ${INSTALL}, or use --device cpu`)
  }
  const names = all.map((a) => `"${a.name}"`).join(', ')
  if (wanted === undefined) {
    const hardware = all.find((a) => !a.software)
    if (hardware) return hardware
    throw new UserError(
      `no hardware WebGPU adapter was found, only ${names}: install the GPU's driver, use ` +
        `--device cpu, or ask for the software adapter by name (--adapter ${shortName(all[0]!)})`,
    )
  }
  const key = wanted.toLowerCase().replace('lavapipe', 'llvmpipe')
  const named = all.find((a) => a.name.toLowerCase().includes(key))
  if (named) return named
  throw new UserError(`no WebGPU adapter matches "${wanted}": this machine has ${names}`)
}

async function requestAdapter(gpu: GPU, entry: AdapterEntry): Promise<GPUAdapter> {
  const adapter = await requestQuietly(gpu, BEST_FIRST)
  if (!adapter) throw new UserError(`adapter "${entry.name}" cannot be opened: ${INSTALL}`)
  const immediates = (adapter.limits as { maxImmediateSize?: number }).maxImmediateSize ?? 0
  if (immediates < PARAM_BYTES || !gpu.wgslLanguageFeatures.has('immediate_address_space')) {
    throw new UserError(
      `adapter "${entry.name}" gives shaders ${immediates} bytes of immediates, ` +
        `${PARAM_BYTES} are needed: update its driver, or use --device cpu`,
    )
  }
  return adapter
}

/** Largest storage binding. */
const bindingOf = ({ limits }: GPUAdapter) =>
  Math.min(limits.maxStorageBufferBindingSize, limits.maxBufferSize)

/** What the adapter that `openAdapter` would take binds at once, without opening it; throws as that does. */
export async function bindingBytes(wanted?: string): Promise<number> {
  const entry = await choose(wanted)
  return bindingOf(await requestAdapter(await gpuOf(entry), entry))
}

const gpuOf = ({ name, backend }: AdapterEntry, timed = false) =>
  createGpu([`adapter=${name}`, `backend=${backend}`], timed)

function subgroupLanes({ features, info }: GPUAdapter): number {
  const fixed = info.subgroupMinSize === info.subgroupMaxSize
  return features.has('subgroups') && fixed ? (info.subgroupMinSize ?? 0) : 0
}

/** What a user can do about a device that went away; `said` is Dawn's message. */
function lossOf(name: string, said: string): UserError {
  const what = said.replace(/\s+/g, ' ').replace(/[. ]+$/, '')
  return new UserError(
    `adapter "${name}" was lost (${what || 'no reason given'}): start the command again, a training run ` +
      'with --resume, or use --device cpu; if its memory ran out, lower --memory or the batch size too',
  )
}

/**
 * Opens the adapter whose name contains `wanted` ("lavapipe" also finds llvmpipe), or the first
 * hardware adapter; `timed`: with timestamps, if it has them. Throws UserError when there is none, with
 * what to do about it.
 */
export async function openAdapter(wanted?: string, timed = false): Promise<OpenAdapter> {
  const entry = await choose(wanted)
  const adapter = await requestAdapter(await gpuOf(entry, timed), entry)
  const { maxStorageBufferBindingSize, maxBufferSize } = adapter.limits
  const { vendor, architecture, description } = adapter.info
  let closed = false
  const restore = entry.software ? throttlePolling() : () => {}
  try {
    const lanes = subgroupLanes(adapter)
    const halves = adapter.features.has('shader-f16')
    const requiredFeatures: GPUFeatureName[] = lanes > 0 ? ['subgroups'] : []
    if (halves) requiredFeatures.push('shader-f16')
    if (timed && adapter.features.has(TIMESTAMPS)) requiredFeatures.push(TIMESTAMPS)
    const gpu = await adapter.requestDevice({
      label: 'zo2',
      requiredFeatures,
      requiredLimits: { maxStorageBufferBindingSize, maxBufferSize },
    })
    // Reasons do not tell our own close from others: a device that is destroyed elsewhere is lost too.
    const lost = new Promise<UserError>((resolve) => {
      void gpu.lost.then(({ message }) => closed || resolve(lossOf(entry.name, message)))
    })
    return {
      gpu,
      lost,
      name: entry.name,
      software: entry.software,
      id: [entry.name, entry.backend, vendor, architecture, description].join(', '),
      lanes,
      halves,
      driver: `${entry.backend}, ${description || vendor}`,
      maxBindingBytes: bindingOf(adapter),
      close() {
        if (closed) return
        closed = true
        gpu.destroy()
        restore()
      },
    }
  } catch (cause) {
    restore()
    throw new UserError(`adapter "${entry.name}" refused a device: ${String(cause)}`, { cause })
  }
}

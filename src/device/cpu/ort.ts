// ONNX Runtime by its C API, the calls go through koffi. The binding of onnxruntime-node copies every
// result into new memory, half of the time of a large product (CHANGELOG, 2026-11-23). A graph runs on
// the JavaScript thread, which has nothing else to do on a machine whose cores all multiply; only long
// ones do not. Owns the library's environment, sessions and values; which library is said in library.ts,
// which graphs there are in sessions.ts. Source: onnxruntime_c_api.h, whose table of functions only ever
// grows at its end.

import type { LibraryHandle } from 'koffi'
import { UserError } from '../../util/errors.ts'
import { maxOf } from '../../util/extremes.ts'
import { PLATFORM } from '../../util/native-code.ts'
import { koffi, openLibrary } from '../../util/koffi.ts'
import { called, type Call } from './calls.ts'
import { checkVersion, ortPath, loadError } from './library.ts'

/** A dense tensor whose memory is the caller's; numbers of 16 bits are f16. */
export interface OrtValue {
  readonly data: Float32Array | Uint16Array | Int32Array | BigInt64Array
  readonly dims: readonly number[]
}

export type OrtValues = Readonly<Record<string, OrtValue>>

export interface OrtSession {
  /** Runs the graph; the results are written into the memory of `into`, which nothing else may touch. */
  run(feeds: OrtValues, into: OrtValues): Promise<void>
  release(): void
}

/** An address; the library's objects are only ever passed on. */
type Pointer = bigint | null
type Out = [Pointer]

/** The version of the C API asked for: the first with all that is used. */
const API_VERSION = 22

/** Places in the table of functions, and their types. */
const SIGNATURES = {
  GetErrorMessage: [2, 'const char *(void *status)'],
  CreateEnv: [3, 'void *(int level, const char *id, _Out_ void **env)'],
  CreateSessionFromArray: [
    8,
    'void *(void *env, const void *model, size_t bytes, void *options, _Out_ void **session)',
  ],
  Run: [
    9,
    'void *(void *session, void *options, const char **inputs, void **feeds, size_t count, ' +
      'const char **outputs, size_t results, void **into)',
  ],
  CreateSessionOptions: [10, 'void *(_Out_ void **options)'],
  DisableMemPattern: [17, 'void *(void *options)'],
  DisableCpuMemArena: [19, 'void *(void *options)'],
  SetIntraOpNumThreads: [24, 'void *(void *options, int threads)'],
  CreateTensorWithDataAsOrtValue: [
    49,
    'void *(void *info, void *data, size_t bytes, const int64_t *shape, size_t rank, int type, ' +
      '_Out_ void **value)',
  ],
  CreateCpuMemoryInfo: [69, 'void *(int allocator, int memory, _Out_ void **info)'],
  ReleaseStatus: [93, 'void (void *status)'],
  ReleaseSession: [95, 'void (void *session)'],
  ReleaseValue: [96, 'void (void *value)'],
  ReleaseSessionOptions: [100, 'void (void *options)'],
  AddSessionConfigEntry: [130, 'void *(void *options, const char *key, const char *value)'],
} as const

type Api = Record<keyof typeof SIGNATURES, Call>

interface Library {
  /** Held for the life of the process. */
  readonly handle: LibraryHandle
  readonly version: string
  readonly api: Api
  readonly env: Pointer
  readonly cpu: Pointer
}

/** ONNX's number of the element type. */
function elementOf(data: OrtValue['data']): number {
  if (data instanceof Float32Array) return 1
  if (data instanceof Uint16Array) return 10
  return data instanceof Int32Array ? 6 : 7
}
const LOG_ERRORS = 3
const DEVICE_ALLOCATOR = 0
const DEFAULT_MEMORY = 0

let loaded: Library | undefined

/** The library's version, as in '1.30.0'. */
export const ortVersion = (): string => library().version

/**
 * A session for a graph (onnx.ts) on so many threads. No arena: it would keep the largest workspace.
 * No spinning: the noise workers need the cores. Throws Error with the library's own message.
 */
export function openSession(model: Uint8Array, threads: number): OrtSession {
  const { api, env } = library()
  const options = made((out) => check(api, api.CreateSessionOptions(out)))
  try {
    check(api, api.SetIntraOpNumThreads(options, threads))
    check(api, api.DisableCpuMemArena(options))
    check(api, api.DisableMemPattern(options))
    check(api, api.AddSessionConfigEntry(options, 'session.intra_op.allow_spinning', '0'))
    const create = api.CreateSessionFromArray
    const session = made((out) => check(api, create(env, model, model.length, options, out)))
    return {
      run: (feeds, into) => run(session, feeds, into),
      release: () => void api.ReleaseSession(session),
    }
  } finally {
    api.ReleaseSessionOptions(options)
  }
}

async function run(session: Pointer, feeds: OrtValues, into: OrtValues): Promise<void> {
  const { api } = library()
  const held: Pointer[] = []
  const create = (values: OrtValues) => {
    for (const value of Object.values(values)) held.push(createValue(value))
  }
  try {
    create(feeds)
    create(into)
    const [inputs, outputs] = [Object.keys(feeds), Object.keys(into)]
    const [given, made] = [held.slice(0, inputs.length), held.slice(inputs.length)]
    const args = [session, null, inputs, given, inputs.length, outputs, outputs.length, made]
    const bytes = [...Object.values(feeds), ...Object.values(into)].reduce(
      (sum, { data }) => sum + data.byteLength,
      0,
    )
    check(api, (await called(api.Run, args, bytes)) as Pointer)
  } finally {
    for (const value of held) api.ReleaseValue(value)
  }
}

function createValue({ data, dims }: OrtValue): Pointer {
  const { api, cpu } = library()
  const shape = BigInt64Array.from(dims, BigInt)
  const create = api.CreateTensorWithDataAsOrtValue
  return made((out) =>
    check(api, create(cpu, data, data.byteLength, shape, dims.length, elementOf(data), out)),
  )
}

function made(create: (out: Out) => void): Pointer {
  const out: Out = [null]
  create(out)
  return out[0]
}

function check(api: Api, status: Pointer): void {
  if (!status) return
  const message = String(api.GetErrorMessage(status))
  api.ReleaseStatus(status)
  throw new Error(`ONNX Runtime: ${message}`)
}

function library(): Library {
  return (loaded ??= load())
}

function load(): Library {
  // Since 1.30 the library tells Microsoft of every process, and leaves files for it in the home and
  // temporary folders, unless this is set before it is loaded.
  process.env['ORT_DISABLE_TELEMETRY'] ??= '1'
  const path = ortPath(PLATFORM)
  const handle = open(path)
  const base = handle.func('const void *OrtGetApiBase()')() as Pointer
  const [getApi, getVersion] = pointers(base, 2)
  const version = callAt(getVersion, 'const char *()')() as string
  checkVersion(version, path)
  const table = callAt(getApi, 'const void *(uint32_t version)')(API_VERSION) as Pointer
  const last = maxOf(Object.values(SIGNATURES).map(([place]) => place))
  const places = pointers(table, last + 1)
  const api = Object.fromEntries(
    Object.entries(SIGNATURES).map(([name, [place, type]]) => [name, callAt(places[place]!, type)]),
  ) as Api
  const env = made((out) => check(api, api.CreateEnv(LOG_ERRORS, 'zo2', out)))
  const cpu = made((out) =>
    check(api, api.CreateCpuMemoryInfo(DEVICE_ALLOCATOR, DEFAULT_MEMORY, out)),
  )
  return { handle, version, api, env, cpu }
}

function open(path: string): LibraryHandle {
  try {
    return openLibrary(path)
  } catch (error) {
    if (error instanceof UserError) throw error
    throw loadError(path, (error as Error).message)
  }
}

const pointers = (at: Pointer, count: number) =>
  koffi().decode(at, koffi().array('void *', count)) as Pointer[]

const callAt = (at: Pointer | undefined, type: string) =>
  koffi().decode(at, koffi().proto(type)) as Call

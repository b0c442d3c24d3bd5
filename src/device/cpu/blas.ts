// A BLAS of the system for large products, where it multiplies faster than ONNX Runtime: Intel's MKL, OpenBLAS, Apple's
// Accelerate. Owns where they are looked for, how they are told to repeat their bits, and the proof that they do: a
// row's product has the same bits among any others and on any number of threads. Which products go to it is said in
// products.ts. Sources: cblas.h; oneMKL's developer reference (conditional numerical reproducibility).

import { existsSync, readdirSync, realpathSync } from 'node:fs'
import { homedir } from 'node:os'
import { basename, dirname, join } from 'node:path'
import type { LibraryHandle } from 'koffi'
import { UserError } from '../../util/errors.ts'
import { openLibrary } from '../../util/koffi.ts'
import { called } from './calls.ts'

export interface BlasSize {
  readonly m: number
  readonly n: number
  readonly k: number
}

export interface Blas {
  /** Its name and version, as in 'MKL 2026.2'. */
  readonly name: string
  /** y [m, n] = x [m, k] * w, plus what is in y if `there`; w is [n, k]^T, or [k, n] if `transposed`. */
  sgemm(
    x: Float32Array,
    w: Float32Array,
    y: Float32Array,
    size: BlasSize,
    options: { readonly there?: boolean; readonly transposed?: boolean; readonly threads: number },
  ): Promise<void>
}

interface Kind {
  readonly label: string
  readonly files: RegExp
  /** Tells the opened library of `folder` how to work; its version. Throws with the reason why it cannot be used. */
  prepare(library: LibraryHandle, folder: string): string
  /** Name and type of the call that sets how many threads it uses, if it has one. */
  readonly setThreads?: string
}

/** Values of mkl_types.h and mkl_service.h. */
const [INTEL_THREADS, GNU_THREADS, LP64, STRICT] = [0, 3, 0, 0x10000]

const KINDS: Readonly<Record<string, Kind>> = {
  mkl: {
    label: 'MKL',
    files: /^libmkl_rt\.(so(\.\d+)?|\d*\.?dylib)$/,
    setThreads: 'void MKL_Set_Num_Threads(int threads)',
    prepare(library, folder) {
      const layer = threadingLayer(folder)
      library.func('int MKL_Set_Interface_Layer(int)')(LP64)
      library.func('int MKL_Set_Threading_Layer(int)')(layer)
      const branch = library.func('int MKL_CBWR_Get_Auto_Branch()')() as number
      const refused = library.func('int MKL_CBWR_Set(int)')(branch | STRICT) as number
      if (refused !== 0) throw new Error('it does not repeat its bits on this processor')
      const version = Buffer.alloc(200)
      library.func('void MKL_Get_Version_String(void *, int)')(version, version.length - 1)
      return /Version ([\d.]+)/.exec(version.toString())?.[1] ?? ''
    },
  },
  openblas: {
    label: 'OpenBLAS',
    files: /^libopenblas\.(so\.0|0\.dylib)$/,
    setThreads: 'void openblas_set_num_threads(int threads)',
    prepare(library) {
      const config = String(library.func('const char *openblas_get_config()')())
      if (config.includes('USE64BITINT')) throw new Error('it counts in 64 bits')
      return /OpenBLAS ([\d.]+)/.exec(config)?.[1] ?? ''
    },
  },
  accelerate: { label: 'Accelerate', files: /^Accelerate$/, prepare: () => '' },
}

/** The kind of a library that is named by its path. */
function kindOf(library: LibraryHandle, path: string): Kind {
  const has = (symbol: string) => {
    try {
      return library.func(`void ${symbol}()`) !== undefined
    } catch {
      return false
    }
  }
  if (has('MKL_Set_Interface_Layer')) return KINDS.mkl!
  if (has('openblas_get_config')) return KINDS.openblas!
  return { label: basename(path), files: /^$/, prepare: () => '' }
}

/**
 * The threads that MKL can have: it ends the process where it misses a part of itself, so that is looked for first.
 * Throws with what is missing.
 */
function threadingLayer(folder: string): number {
  const there = readdirSync(folder)
  const has = (part: string) => there.some((file) => file.startsWith(`libmkl_${part}.`))
  const missing = ['core', 'intel_lp64'].filter((part) => !has(part))
  if (!['avx512', 'avx2', 'def'].some(has)) missing.push('avx2')
  if (missing.length > 0) throw new Error(`it lacks libmkl_${missing.join(', libmkl_')}`)
  const loads = (...files: string[]) => files.some((file) => hold(file) !== null)
  if (has('intel_thread') && loads(join(folder, 'libiomp5.so'), 'libiomp5.so')) return INTEL_THREADS
  if (has('gnu_thread') && loads('libgomp.so.1')) return GNU_THREADS
  throw new Error('it has neither libiomp5 nor libgomp: pip install intel-openmp')
}

const libraries = new Map<string, LibraryHandle>()

/** The library, held for the life of the process; null if it cannot be loaded. */
function hold(file: string): LibraryHandle | null {
  try {
    const library = libraries.get(file) ?? openLibrary(file)
    libraries.set(file, library)
    return library
  } catch (error) {
    if (error instanceof UserError) throw error
    return null
  }
}

/** Folders of libraries, those of the environment at hand first. */
function folders(): string[] {
  const { MKLROOT, CONDA_PREFIX, VIRTUAL_ENV, LD_LIBRARY_PATH } = process.env
  const prefixes = [MKLROOT, CONDA_PREFIX, VIRTUAL_ENV].filter((prefix) => prefix !== undefined)
  return [
    ...(LD_LIBRARY_PATH?.split(':') ?? []),
    ...prefixes.map((prefix) => join(prefix, 'lib')),
    join(homedir(), '.local', 'lib'),
    '/usr/local/lib',
    '/opt/intel/oneapi/mkl/latest/lib',
    '/usr/lib/x86_64-linux-gnu',
    '/usr/lib/aarch64-linux-gnu',
    '/usr/lib64',
    '/usr/lib',
    '/opt/homebrew/opt/openblas/lib',
    '/System/Library/Frameworks/Accelerate.framework',
  ].filter((folder) => folder !== '' && existsSync(folder))
}

export const BLAS_KINDS: readonly string[] = Object.keys(KINDS)

/** Paths of a kind of library that this machine has. */
export const findBlas = (kind: string): string[] =>
  folders().flatMap((folder) =>
    readdirSync(folder)
      .filter((file) => KINDS[kind]!.files.test(file))
      .map((file) => join(folder, file)),
  )

/** Kinds that `auto` looks for, the fastest first. */
const AUTO = ['mkl', 'accelerate']

/**
 * The library that `--blas` names: a kind, a path, or for `auto` the first kind that can be used. Null for ONNX
 * Runtime's own products. A library is opened and proved once in a process.
 * @throws UserError if the one that is named is not there or cannot be used.
 */
export async function openBlas(wanted: string, threads: number): Promise<Blas | null> {
  const known = opened.get(wanted)
  if (known !== undefined) return known
  const blas = wanted === 'onnxruntime' ? null : await search(wanted, threads)
  opened.set(wanted, blas)
  return blas
}

const opened = new Map<string, Blas | null>()

async function search(wanted: string, threads: number): Promise<Blas | null> {
  const kinds = wanted === 'auto' ? AUTO : wanted in KINDS ? [wanted] : []
  const paths = kinds.length > 0 ? kinds.flatMap((kind) => findBlas(kind)) : [wanted]
  const reasons: string[] = []
  for (const path of paths) {
    try {
      const blas = use(path)
      await prove(blas, threads)
      return blas
    } catch (error) {
      if (error instanceof UserError) throw error
      reasons.push(`${path}: ${(error as Error).message}`)
    }
  }
  if (wanted === 'auto') return null
  const why = reasons.length > 0 ? reasons.join('; ') : `there is none in ${folders().join(', ')}`
  const names = ['auto', 'onnxruntime', ...BLAS_KINDS].join(', ')
  throw new UserError(
    `--blas ${wanted}: ${why}: install one, or name another: ${names}, or the path of a library`,
    { exitCode: 2 },
  )
}

/** Idle threads that spin take the cores from noise and from ONNX Runtime; read when a library is loaded. */
const ENVIRONMENT = { KMP_BLOCKTIME: '0', OPENBLAS_THREAD_TIMEOUT: '4' }

function use(path: string): Blas {
  for (const [name, value] of Object.entries(ENVIRONMENT)) process.env[name] ??= value
  const library = hold(path)
  if (!library) throw new Error('it cannot be loaded')
  const kind = kindOf(library, path)
  const version = kind.prepare(library, dirname(existsSync(path) ? realpathSync(path) : path))
  const call = library.func(
    'void cblas_sgemm(int order, int transX, int transW, int m, int n, int k, float alpha, void *x, ' +
      'int ldx, void *w, int ldw, float beta, void *y, int ldy)',
  )
  const setThreads = kind.setThreads === undefined ? null : library.func(kind.setThreads)
  let current = 0
  const sgemm: Blas['sgemm'] = async (x, w, y, { m, n, k }, options) => {
    const { there = false, transposed = false, threads } = options
    if (threads !== current) setThreads?.(threads)
    current = threads
    const size = [ROWS, PLAIN, transposed ? PLAIN : TRANSPOSED, m, n, k]
    const args = [...size, 1, x, k, w, transposed ? n : k, there ? 1 : 0, y, n]
    await called(call, args, x.byteLength + w.byteLength + y.byteLength)
  }
  return { name: `${kind.label} ${version}`.trim(), sgemm }
}

/** Of cblas.h. */
const [ROWS, PLAIN, TRANSPOSED] = [101, 111, 112]

/** Rows of the proof, and how they are grouped: by the kernels for few rows and by those for many. */
const GROUPS = [2, 3, 5, 14, 40, 136]
const PROOF_ROWS = GROUPS.reduce((sum, rows) => sum + rows, 0)
const [N, K] = [768, 704]
const TOLERANCE = 1e-4

/** Throws if rows do not have the same bits in groups as together, by one thread as by several, or are wrong. */
export async function prove({ sgemm }: Blas, threads: number): Promise<void> {
  const x = madeUp(PROOF_ROWS * K, 1)
  const w = madeUp(N * K, 2)
  for (const transposed of [false, true]) {
    const together = new Float32Array(PROOF_ROWS * N)
    await sgemm(x, w, together, { m: PROOF_ROWS, n: N, k: K }, { transposed, threads })
    const weight = (n: number, k: number) => w[transposed ? k * N + n : n * K + k]!
    for (const n of [0, N - 1]) {
      const sum = x.subarray(0, K).reduce((total, value, k) => total + value * weight(n, k), 0)
      if (!(Math.abs(sum - together[n]!) < TOLERANCE)) throw new Error('its products are wrong')
    }
    for (const of of new Set([1, threads])) {
      let first = 0
      for (const m of GROUPS) {
        const rows = together.slice(first * N, (first + m) * N).fill(0)
        const part = x.slice(first * K, (first + m) * K)
        await sgemm(part, w, rows, { m, n: N, k: K }, { transposed, threads: of })
        if (rows.some((value, i) => value !== together[first * N + i])) {
          throw new Error('a row has other bits among other rows or by other threads')
        }
        first += m
      }
    }
  }
}

/** n numbers about zero, up to a half; the same for the same seed. */
const madeUp = (n: number, seed: number) =>
  Float32Array.from({ length: n }, (_, i) => {
    return (Math.imul(i + seed * 7919, 2654435761) >>> 8) / 2 ** 24 - 0.5
  })

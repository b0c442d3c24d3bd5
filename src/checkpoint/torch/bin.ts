// The header of a PyTorch state dict (`pytorch_model.bin`, ZIP format): which bytes of which
// storage each tensor is. Tensor data is never read here; the pickle inside is read by pickle.ts,
// under the rules below. Leaves the archive to zip.ts, the folder to src/checkpoint/open.ts and state dicts
// inside of other values to nanogpt.ts.
// Source: torch/serialization.py (_save), torch/_utils.py (_rebuild_tensor_v2,
// _rebuild_parameter).
import type { FileHandle } from 'node:fs/promises'
import { resolve } from 'node:path'
import { UserError } from '../../util/errors.ts'
import { looksLikeLfsPointer, openForReading, readFully } from '../../io/read.ts'
import { describe, quote } from '../../util/untrusted.ts'
import { isTuple, PickleGlobal, unpickle, type PickleRules } from './pickle.ts'
import type { FileTensors, OtherTensor, TensorEntry } from '../types.ts'
import { DTYPE_BYTES, type DType } from '../../util/dtypes.ts'
import { readZipDirectory, type ZipEntry } from './zip.ts'

/** OPT-66B whole would need some 300 kB. */
const MAX_PICKLE_BYTES = 4 << 20

/** Types of storages by safetensors' names; those that no model uses are passed over. */
const STORAGE_DTYPES: ReadonlyMap<string, string> = new Map([
  ['torch.HalfStorage', 'F16'],
  ['torch.FloatStorage', 'F32'],
  ['torch.BFloat16Storage', 'BF16'],
  ['torch.ByteStorage', 'U8'],
  ['torch.BoolStorage', 'BOOL'],
  ['torch.CharStorage', 'I8'],
  ['torch.ShortStorage', 'I16'],
  ['torch.IntStorage', 'I32'],
  ['torch.LongStorage', 'I64'],
  ['torch.DoubleStorage', 'F64'],
])

const isUsable = (dtype: string): dtype is DType => Object.hasOwn(DTYPE_BYTES, dtype)

/**
 * PyTorch's own limit. One long shape, shared by many tensors, would otherwise cost quadratic
 * time.
 */
const MAX_RANK = 64

/** What the pickle says of a storage; its bytes are the archive entry `data/<key>`. */
class Storage {
  readonly dtype: string
  readonly key: string
  readonly elements: number
  constructor(dtype: string, key: string, elements: number) {
    this.dtype = dtype
    this.key = key
    this.elements = elements
  }
}

/** What the pickle says of a tensor; checked when its name is known. */
class TensorView {
  readonly storage: unknown
  readonly offset: unknown
  readonly shape: unknown
  readonly strides: unknown
  constructor(args: readonly unknown[]) {
    this.storage = args[0]
    this.offset = args[1]
    this.shape = args[2]
    this.strides = args[3]
  }
}

const RULES: PickleRules = {
  globals: new Map<string, ((args: readonly unknown[]) => unknown) | null>([
    ...[...STORAGE_DTYPES.keys()].map((name) => [name, null] as const),
    ['collections.OrderedDict', () => new Map()],
    ['torch._utils._rebuild_tensor_v2', (args) => new TensorView(args)],
    ['torch._utils._rebuild_parameter', (args) => args[0]],
  ]),
  persistentLoad(id) {
    if (!isTuple(id)) return undefined
    const [tag, type, key, , elements] = id
    const dtype = type instanceof PickleGlobal ? STORAGE_DTYPES.get(type.name) : undefined
    if (tag !== 'storage' || dtype === undefined || typeof key !== 'string' || !isSize(elements)) {
      return undefined
    }
    return new Storage(dtype, key, elements)
  },
}

interface Archive {
  readonly file: string
  readonly handle: FileHandle
  /** Folder of the archive's entries, with its slash. */
  readonly root: string
  readonly entries: ReadonlyMap<string, ZipEntry>
}

/** What a file of torch.save holds. */
interface TorchFile {
  /** Absolute path. */
  readonly file: string
  /** The saved value as pickle.ts reads it; tensors in it are for `locate`. */
  readonly value: unknown
  /** Where the tensor `value`, called `name`, lies; UserError if it is no contiguous tensor. */
  locate(name: string, value: unknown): TensorEntry
}

/**
 * Reads what torch.save wrote, without the tensors' data. Throws UserError for old (non-ZIP) files,
 * pickles of anything but plain values and tensors, compressed entries, big-endian data.
 */
export async function readTorchFile(path: string): Promise<TorchFile> {
  const file = resolve(path)
  const { handle, fileBytes } = await openForReading(file)
  try {
    await checkMagic(handle, file, fileBytes)
    const entries = await readZipDirectory(handle, file, fileBytes)
    const archive = { file, handle, root: findRoot(file, entries), entries }
    await checkByteOrder(archive)
    const value = unpickle(await readPickle(archive), file, RULES)
    return { file, value, locate: (name, tensor) => locate(archive, name, tensor) }
  } finally {
    await handle.close()
  }
}

/** The tensors of a state dict, in its order; tied ones share a range. UserError as readTorchFile. */
export async function readTorchBin(path: string): Promise<FileTensors> {
  const torch = await readTorchFile(path)
  if (!(torch.value instanceof Map)) {
    throw new UserError(
      `${torch.file}: expected a state dict of tensors, found ${describe(torch.value)}; ` +
        `save model.state_dict() with torch.save`,
    )
  }
  return stateTensors(torch, torch.value)
}

/** The tensors of a state dict within `torch`. */
export function stateTensors(torch: TorchFile, state: ReadonlyMap<unknown, unknown>): FileTensors {
  const tensors: TensorEntry[] = []
  const others: OtherTensor[] = []
  for (const [key, value] of state) {
    const name = String(key)
    const dtype = otherDtype(value)
    if (dtype === undefined) tensors.push(torch.locate(name, value))
    else others.push({ name, dtype })
  }
  return { tensors, others }
}

/** The element type of a tensor, if it is one that no model uses. */
function otherDtype(value: unknown): string | undefined {
  const storage = value instanceof TensorView ? value.storage : undefined
  return storage instanceof Storage && !isUsable(storage.dtype) ? storage.dtype : undefined
}

async function checkMagic(handle: FileHandle, file: string, fileBytes: number): Promise<void> {
  const first = new Uint8Array(Math.min(fileBytes, 32))
  await readFully(handle, file, 0, first)
  if (first[0] === 0x50 && first[1] === 0x4b && first[2] === 3 && first[3] === 4) return
  if (looksLikeLfsPointer(first)) {
    throw new UserError(`${file}: expected weights, found a Git LFS pointer; run git lfs pull`)
  }
  if (first[0] === 0x80) {
    throw new UserError(
      `${file}: expected torch.save's ZIP format, found the pickle format from before PyTorch ` +
        `1.6; load it with PyTorch and save it again with torch.save`,
    )
  }
  throw new UserError(
    `${file}: expected a PyTorch file that starts with PK, found other bytes; download it again`,
  )
}

function findRoot(file: string, entries: ReadonlyMap<string, ZipEntry>): string {
  const roots = [...entries.keys()].filter((name) => /^[^/]+\/data\.pkl$/.test(name))
  if (roots.length !== 1) {
    throw new UserError(
      `${file}: expected one data.pkl in the archive, found ${roots.length}; ` +
        `this is not a file of torch.save, download the checkpoint again`,
    )
  }
  return roots[0]!.slice(0, -'data.pkl'.length)
}

/** Files before PyTorch 2.1 have no `byteorder`; they come from little-endian machines. */
async function checkByteOrder({ file, handle, root, entries }: Archive): Promise<void> {
  const entry = entries.get(`${root}byteorder`)
  if (entry === undefined) return
  const raw = new Uint8Array(Math.min(entry.bytes, 16))
  await readFully(handle, file, entry.offsetBytes, raw)
  const found = Buffer.from(raw).toString('latin1')
  if (found !== 'little') {
    throw new UserError(
      `${file}: expected byte order little, found ${quote(found)}; ` +
        `save it again on a little-endian machine`,
    )
  }
}

async function readPickle({ file, handle, root, entries }: Archive): Promise<Uint8Array> {
  const entry = entries.get(`${root}data.pkl`)!
  if (entry.bytes > MAX_PICKLE_BYTES) {
    throw new UserError(
      `${file}: expected a data.pkl of at most ${MAX_PICKLE_BYTES} bytes, found ${entry.bytes}; ` +
        `save the plain state dict with torch.save`,
    )
  }
  const raw = new Uint8Array(entry.bytes)
  await readFully(handle, file, entry.offsetBytes, raw)
  return raw
}

function locate({ file, root, entries }: Archive, name: string, value: unknown): TensorEntry {
  const refuse = (expected: string, found: string, advice: string): UserError =>
    new UserError(`${file}: expected ${quote(name)} ${expected}, found ${found}; ${advice}`)
  const again = 'the file is damaged, download it again'
  if (!(value instanceof TensorView)) {
    const advice = 'save model.state_dict() alone with torch.save'
    throw refuse('to be a tensor', describe(value), advice)
  }
  const { storage, offset, shape, strides } = value
  if (!(storage instanceof Storage)) throw refuse('to have a storage', describe(storage), again)
  const { dtype } = storage
  if (!isUsable(dtype)) {
    throw refuse('to be F32, F16 or BF16', dtype, 'convert the checkpoint to one of these')
  }
  if (!isSize(offset)) throw refuse('to have an offset >= 0', describe(offset), again)
  if (!isSizes(shape) || !isSizes(strides) || shape.length !== strides.length) {
    throw refuse('to have sizes and strides', `${describe(shape)} and ${describe(strides)}`, again)
  }
  const elements = shape.reduce((product, size) => product * size, 1)
  if (!isRowMajor(shape, strides)) {
    const found = `strides [${strides.slice(0, 8).join(', ')}]`
    const advice = 'call .contiguous() on it and save again'
    throw refuse(`to be row-major, shape [${shape.slice(0, 8).join(', ')}]`, found, advice)
  }
  if (!(offset + elements <= storage.elements)) {
    throw refuse(`inside its storage of ${storage.elements}`, `${offset} + ${elements}`, again)
  }
  const data = entries.get(`${root}data/${storage.key}`)
  const itemBytes = DTYPE_BYTES[dtype]
  if (data?.bytes !== storage.elements * itemBytes) {
    const found = data === undefined ? 'none' : `${data.bytes}`
    const where = `data/${storage.key}`
    throw refuse(`to have ${storage.elements * itemBytes} bytes in ${quote(where)}`, found, again)
  }
  return {
    name,
    dtype,
    shape,
    file,
    offsetBytes: data.offsetBytes + offset * itemBytes,
    bytes: elements * itemBytes,
  }
}

function isSize(value: unknown): value is number {
  return Number.isSafeInteger(value) && Number(value) >= 0
}

function isSizes(value: unknown): value is readonly number[] {
  return isTuple(value) && value.length <= MAX_RANK && value.every(isSize)
}

/** Whether elements follow one another; the stride of a size of one says nothing. */
function isRowMajor(shape: readonly number[], strides: readonly number[]): boolean {
  if (shape.includes(0)) return true
  let expected = 1
  for (let i = shape.length - 1; i >= 0; i--) {
    if (shape[i] !== 1 && strides[i] !== expected) return false
    expected *= shape[i]!
  }
  return true
}

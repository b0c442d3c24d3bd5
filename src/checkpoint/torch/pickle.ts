// A restricted unpickler: the opcodes of protocol 2 that torch.save uses for state dicts and plain
// values around them, and only the globals that the caller lists. It never executes, never recurses, and its memory is
// bounded by the pickle's own size and MAX_OBJECTS; anything else in the stream ends with a
// UserError naming it. Dictionaries become Maps, tuples frozen arrays, lists arrays. Leaves the meaning of
// globals to bin.ts.
// Source: CPython Lib/pickletools.py (opcodes); which ones, torch/_weights_only_unpickler.py.
import { UserError } from '../../util/errors.ts'
import { describe, quote } from '../../util/untrusted.ts'

/** A global that the stream named and the caller allows. */
export class PickleGlobal {
  readonly name: string
  constructor(name: string) {
    this.name = name
  }
}

/** What the caller lets a pickle do. */
export interface PickleRules {
  /** Allowed globals ('module.name'): what REDUCE calls, or null for one that may only be named. */
  readonly globals: ReadonlyMap<string, ((args: readonly unknown[]) => unknown) | null>
  /** Resolves a persistent id. */
  persistentLoad(id: unknown): unknown
}

/** Containers and results a stream may make: eight per tensor, so 32,768 tensors. Bounds memory. */
const MAX_OBJECTS = 1 << 18
const MAX_NAME_BYTES = 256

interface Machine {
  readonly bytes: Uint8Array
  readonly view: DataView
  readonly rules: PickleRules
  readonly stack: unknown[]
  /** Stack heights at which MARK was met. */
  readonly marks: number[]
  readonly memo: Map<number, unknown>
  position: number
  objects: number
}

/** Why a stream is refused; unpickle() adds the file and the place. */
class Refusal extends Error {}

const OPCODES: ReadonlyMap<number, (machine: Machine) => void> = new Map([
  [0x7d, (m) => make(m, new Map())], // } EMPTY_DICT
  [0x29, (m) => make(m, Object.freeze([]))], // ) EMPTY_TUPLE
  [0x5d, (m) => make(m, [])], // ] EMPTY_LIST
  [0x61, (m) => append(m, popMany(m, 1))], // a APPEND
  [0x65, (m) => append(m, popToMark(m))], // e APPENDS
  [0x28, (m) => void m.marks.push(m.stack.length)], // ( MARK
  [0x74, (m) => make(m, Object.freeze(popToMark(m)))], // t TUPLE
  [0x85, (m) => make(m, Object.freeze(popMany(m, 1)))], // TUPLE1
  [0x86, (m) => make(m, Object.freeze(popMany(m, 2)))], // TUPLE2
  [0x87, (m) => make(m, Object.freeze(popMany(m, 3)))], // TUPLE3
  [0x58, (m) => push(m, utf8(take(m, m.view.getUint32(skip(m, 4), true))))], // X BINUNICODE
  [0x4a, (m) => push(m, m.view.getInt32(skip(m, 4), true))], // J BININT
  [0x4b, (m) => push(m, m.bytes[skip(m, 1)])], // K BININT1
  [0x4d, (m) => push(m, m.view.getUint16(skip(m, 2), true))], // M BININT2
  [0x8a, (m) => push(m, long(m))], // LONG1
  [0x47, (m) => push(m, m.view.getFloat64(skip(m, 8), false))], // G BINFLOAT
  [0x4e, (m) => push(m, null)], // N NONE
  [0x88, (m) => push(m, true)], // NEWTRUE
  [0x89, (m) => push(m, false)], // NEWFALSE
  [0x71, (m) => memoize(m, m.bytes[skip(m, 1)]!)], // q BINPUT
  [0x72, (m) => memoize(m, m.view.getUint32(skip(m, 4), true))], // r LONG_BINPUT
  [0x68, (m) => recall(m, m.bytes[skip(m, 1)]!)], // h BINGET
  [0x6a, (m) => recall(m, m.view.getUint32(skip(m, 4), true))], // j LONG_BINGET
  [0x63, (m) => push(m, global(m))], // c GLOBAL
  [0x51, (m) => make(m, m.rules.persistentLoad(pop(m)))], // Q BINPERSID
  [0x52, reduce], // R REDUCE
  [0x62, build], // b BUILD
  [0x73, (m) => setItems(m, popMany(m, 2))], // s SETITEM
  [0x75, (m) => setItems(m, popToMark(m))], // u SETITEMS
])

/** Names of opcodes that are refused, for the message. */
const REFUSED: ReadonlyMap<number, string> = new Map([
  [0x69, 'INST'],
  [0x6f, 'OBJ'],
  [0x81, 'NEWOBJ'],
  [0x92, 'NEWOBJ_EX'],
  [0x93, 'STACK_GLOBAL'],
  [0x95, 'FRAME'],
  [0x82, 'EXT1'],
  [0x83, 'EXT2'],
  [0x84, 'EXT4'],
  [0x50, 'PERSID'],
  [0x8b, 'LONG4'],
  [0x8c, 'SHORT_BINUNICODE'],
])

/**
 * Reads one pickled value. `file` names it in errors. Throws UserError, with the opcode or the
 * global, for everything that the rules do not allow and for malformed streams.
 */
export function unpickle(bytes: Uint8Array, file: string, rules: PickleRules): unknown {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const machine: Machine = {
    bytes,
    view,
    rules,
    stack: [],
    marks: [],
    memo: new Map(),
    position: 0,
    objects: 0,
  }
  try {
    return run(machine)
  } catch (error) {
    if (!(error instanceof Refusal)) throw error
    throw new UserError(
      `${file}: expected the pickle of a plain state dict, found ${error.message} at its byte ` +
        `${machine.position}; nothing was executed, use the safetensors file or save the ` +
        `state dict again with torch.save`,
    )
  }
}

function run(m: Machine): unknown {
  if (m.bytes[skip(m, 1)] !== 0x80) throw new Refusal('no PROTO opcode')
  const protocol = m.bytes[skip(m, 1)]
  if (protocol !== 2) throw new Refusal(`pickle protocol ${protocol} instead of 2`)
  for (;;) {
    const opcode = m.bytes[skip(m, 1)]!
    if (opcode === 0x2e) break // . STOP
    const execute = OPCODES.get(opcode)
    if (execute === undefined) {
      const name = REFUSED.get(opcode)
      const hex = `0x${opcode.toString(16).padStart(2, '0')}`
      throw new Refusal(`the opcode ${name === undefined ? hex : `${name} (${hex})`}`)
    }
    execute(m)
  }
  if (m.position !== m.bytes.length) throw new Refusal('bytes after STOP')
  if (m.stack.length !== 1 || m.marks.length > 0) throw new Refusal('an unbalanced stack')
  return m.stack[0]
}

/** Moves past `count` bytes and returns where they began. */
function skip(m: Machine, count: number): number {
  const start = m.position
  if (count > m.bytes.length - start) throw new Refusal('the end of the data')
  m.position += count
  return start
}

function take(m: Machine, count: number): Uint8Array {
  const start = skip(m, count)
  return m.bytes.subarray(start, start + count)
}

function push(m: Machine, value: unknown): void {
  m.stack.push(value)
}

function make(m: Machine, value: unknown): void {
  if (++m.objects > MAX_OBJECTS) throw new Refusal(`more than ${MAX_OBJECTS} objects`)
  m.stack.push(value)
}

function pop(m: Machine): unknown {
  return popMany(m, 1)[0]
}

/** Takes the top `count` values, which may not reach below the last MARK. */
function popMany(m: Machine, count: number): unknown[] {
  const start = m.stack.length - count
  if (start < (m.marks.at(-1) ?? 0)) throw new Refusal('an empty stack')
  return m.stack.splice(start, count)
}

function popToMark(m: Machine): unknown[] {
  const start = m.marks.pop()
  if (start === undefined) throw new Refusal('no MARK')
  return m.stack.splice(start)
}

function top(m: Machine): unknown {
  if (m.stack.length <= (m.marks.at(-1) ?? 0)) throw new Refusal('an empty stack')
  return m.stack.at(-1)
}

function memoize(m: Machine, index: number): void {
  m.memo.set(index, top(m))
}

function recall(m: Machine, index: number): void {
  if (!m.memo.has(index)) throw new Refusal(`no memo ${index}`)
  m.stack.push(m.memo.get(index))
}

function utf8(bytes: Uint8Array): string {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
  } catch {
    throw new Refusal('a string that is not UTF-8')
  }
}

/** Two's complement, little-endian, at most eight bytes: sizes are never larger. */
function long(m: Machine): number {
  const bytes = take(m, m.bytes[skip(m, 1)]!)
  if (bytes.length > 8) throw new Refusal(`an integer of ${bytes.length} bytes`)
  let value = 0n
  for (const [i, byte] of bytes.entries()) value |= BigInt(byte) << BigInt(8 * i)
  const number = Number(BigInt.asIntN(8 * bytes.length, value))
  if (!Number.isSafeInteger(number)) throw new Refusal(`the integer ${number}`)
  return number
}

function line(m: Machine): string {
  const rest = m.bytes.subarray(m.position, m.position + MAX_NAME_BYTES)
  const length = rest.indexOf(0x0a)
  if (length < 0) throw new Refusal('a global without an end of line')
  const text = utf8(take(m, length))
  skip(m, 1)
  return text
}

function global(m: Machine): PickleGlobal {
  const module = line(m)
  const name = `${module}.${line(m)}`
  if (!m.rules.globals.has(name)) throw new Refusal(`the global ${quote(name)}`)
  return new PickleGlobal(name)
}

function reduce(m: Machine): void {
  const [callable, args] = popMany(m, 2)
  if (!(callable instanceof PickleGlobal)) throw new Refusal(`a call of ${describe(callable)}`)
  const call = m.rules.globals.get(callable.name)
  if (call == null) throw new Refusal(`a call of the global ${quote(callable.name)}`)
  if (!isTuple(args)) throw new Refusal(`a call with ${describe(args)} for arguments`)
  make(m, call(args))
}

/** Attributes of an OrderedDict, such as a state dict's `_metadata`, carry no weights: dropped. */
function build(m: Machine): void {
  pop(m)
  if (!(top(m) instanceof Map)) throw new Refusal('attributes on something that is no dictionary')
}

function append(m: Machine, items: readonly unknown[]): void {
  const target = top(m)
  const isList = Array.isArray(target) && !Object.isFrozen(target)
  if (!isList) throw new Refusal('items added to no list')
  for (const item of items) target.push(item)
}

/** Keys are names, or numbers as in an optimizer's state. */
function setItems(m: Machine, items: readonly unknown[]): void {
  const target = top(m)
  if (!(target instanceof Map)) throw new Refusal('items set on something that is no dictionary')
  if (items.length % 2 !== 0) throw new Refusal('a key without a value')
  for (let i = 0; i < items.length; i += 2) {
    const key = items[i]
    if (typeof key !== 'string' && typeof key !== 'number') {
      throw new Refusal(`a key that is no string: ${describe(key)}`)
    }
    if (target.has(key)) throw new Refusal(`the key ${describe(key)} twice`)
    target.set(key, items[i + 1])
  }
}

/** True for what TUPLE opcodes make. */
export function isTuple(value: unknown): value is readonly unknown[] {
  return Array.isArray(value) && Object.isFrozen(value)
}

// Preloaded into `zo2` (node --import): notes every call that writes below a folder, and every fold of a
// fold thread, the moment it begins; and lets all writes from the n-th on fail as a full disk does,
// the n-th after half of its bytes. One count for all threads. file-calls.ts is the other end.

import fs from 'node:fs'
import promises from 'node:fs/promises'
import { syncBuiltinESMExports } from 'node:module'
import { resolve, sep } from 'node:path'
import * as threads from 'node:worker_threads'

const { ZO2_CALLS_BELOW: below, ZO2_CALLS_LOG: log, ZO2_CALLS_FULL_FROM: from } = process.env
const fullFrom = from ? Number(from) : Infinity
const { writeSync, readlinkSync, existsSync } = fs
const out = fs.openSync(log, 'a')

const KEY = 'zo2-file-calls'
if (threads.isMainThread) threads.setEnvironmentData(KEY, new Int32Array(new SharedArrayBuffer(4)))
const count = threads.getEnvironmentData(KEY)

const note = (what, path) => {
  const ms = (performance.timeOrigin + performance.now()).toFixed(3)
  writeSync(out, `${ms} ${what} ${path}\n`)
}

/** Notes a call on a file or folder of ours; what it is to throw, and whether it is the first such. */
function called(what, file) {
  const path = pathOf(file)
  if (path !== below && !path.startsWith(below + sep)) return null
  const number = Atomics.add(count, 0, 1) + 1
  note(number < fullFrom ? what : `${what}!`, path)
  if (number < fullFrom) return null
  const error = new Error(`ENOSPC: no space left on device, ${what}`)
  const halfway = number === fullFrom
  return { halfway, error: Object.assign(error, { code: 'ENOSPC', errno: -28, syscall: what }) }
}

function pathOf(file) {
  const fd = typeof file === 'number' ? file : file?.fd
  if (fd === undefined) return resolve(String(file))
  return readlinkSync(`/proc/self/fd/${fd}`).replace(/ \(deleted\)$/, '')
}

/** Half of what is to be written. */
const half = (data) => Buffer.from(data).subarray(0, Math.floor(Buffer.byteLength(data) / 2))

/** Puts a version in place of `owner[name]` that fails where it must. */
function guard(owner, name, fileOf, begin = () => {}, isWrite = () => true) {
  const real = owner[name]
  owner[name] = async function (...args) {
    const failure = isWrite(...args) && called(name, fileOf(this, args))
    if (!failure) return real.apply(this, args)
    if (failure.halfway) await begin(this, ...args)
    throw failure.error
  }
}

const first = (_this, [path]) => path
const second = (_this, [, path]) => path
const creates = (path, flags = 'r') => /[wa]/.test(flags) && !existsSync(path)
const appendFile = promises.appendFile
guard(promises, 'open', first, undefined, creates)
for (const name of ['mkdir', 'mkdtemp']) guard(promises, name, first)
for (const name of ['rename', 'link', 'copyFile']) guard(promises, name, second)
for (const name of ['writeFile', 'appendFile']) {
  guard(promises, name, first, (_this, path, data) => appendFile(path, half(data)))
}

const handle = await promises.open(log, 'r')
const proto = Object.getPrototypeOf(handle)
await handle.close()
const { write } = proto
const itself = (self) => self
for (const name of ['sync', 'datasync']) guard(proto, name, itself)
guard(proto, 'write', itself, (self, data, at, length, position) =>
  write.call(self, data, at, Math.floor(length / 2), position),
)
guard(proto, 'appendFile', itself, (self, data) => write.call(self, half(data)))

fs.writeSync = (fd, ...args) => {
  const failure = called('writeSync', fd)
  if (failure) throw failure.error
  return writeSync(fd, ...args)
}
syncBuiltinESMExports()

// A fold thread gets one message for each job and answers it with one.
if (!threads.isMainThread) {
  const { parentPort } = threads
  const { on, postMessage } = parentPort
  parentPort.on = (event, listener) => {
    const heard = (job) => {
      if (job?.target) note('fold', below)
      listener(job)
    }
    return on.call(parentPort, event, heard)
  }
  parentPort.postMessage = (...args) => {
    if (args[0] === null || args[0]?.message) note('folded', below)
    return postMessage.apply(parentPort, args)
  }
}

// Preloaded into `zo2` (node --import): takes the GPU away at the n-th submit after a text stood on
// stderr. 'destroy': Dawn itself drops the device. 'silent': a driver that hangs: no promise of the
// device settles any more, and only `lost` says so, a moment later. lose-device.ts is the other end.

import { isMainThread } from 'node:worker_threads'

const { ZO2_LOSE_AFTER: text, ZO2_LOSE_SUBMIT: submit, ZO2_LOSE_HOW: how } = process.env

async function takeAway() {
  // The copy that zo2 loads (scripts/native.mjs).
  const own = `../../native/${process.platform}-${process.arch}/webgpu/index.js`
  const { globals } = await import(own)
  let left = text === '' ? Number(submit) : Infinity
  let silent = false
  const { write } = process.stderr
  process.stderr.write = function (line, ...rest) {
    if (left === Infinity && String(line).includes(text)) left = Number(submit)
    return write.call(this, line, ...rest)
  }

  const { requestDevice } = globals.GPUAdapter.prototype
  globals.GPUAdapter.prototype.requestDevice = async function (...args) {
    const gpu = await requestDevice.apply(this, args)
    let lose = () => gpu.destroy()
    if (how === 'silent') {
      const lost = new Promise((resolve) => {
        lose = () => {
          silent = true
          const message = 'vkQueueSubmit failed with VK_ERROR_DEVICE_LOST\n at hang (driver:1)\n'
          setTimeout(() => resolve({ reason: 'unknown', message }), 30)
        }
      })
      Object.defineProperty(gpu, 'lost', { value: lost })
    }
    const { queue } = gpu
    const send = queue.submit
    queue.submit = (commands) => {
      const sent = send.call(queue, commands)
      if (--left === 0) lose()
      return sent
    }
    return gpu
  }

  const owed = [
    [globals.GPUBuffer, 'mapAsync'],
    [globals.GPUQueue, 'onSubmittedWorkDone'],
    [globals.GPUDevice, 'popErrorScope'],
  ]
  for (const [{ prototype }, name] of owed) {
    const real = prototype[name]
    prototype[name] = function (...args) {
      const answer = real.apply(this, args)
      const unlessSilent = (settle) => (value) => silent || settle(value)
      return new Promise((resolve, reject) => {
        answer.then(unlessSilent(resolve), unlessSilent(reject))
      })
    }
  }
}

if (isMainThread) await takeAway()

// The options of devices and of the memory that a run may take.
// Ranges and help only; opening is src/engine/open.ts's.

import { availableParallelism } from 'node:os'
import { z } from 'zod'
import { ON_DEVICE, type OptionSpec } from '../spec.ts'
import { bytes, countAtMost, oneOf, path, text } from '../values.ts'

const MiB = 2 ** 20

/** What others call a device, and what it is called here. */
const ELSEWHERE: Readonly<Record<string, string>> = {
  gpu: 'webgpu',
  cuda: 'webgpu',
  rocm: 'webgpu',
  metal: 'webgpu',
  mps: 'webgpu',
  vulkan: 'webgpu',
  onnx: 'cpu',
  onnxruntime: 'cpu',
}

const kind = z.enum(['auto', 'cpu', 'webgpu'], {
  error: ({ input }) => {
    const here = typeof input === 'string' ? ELSEWHERE[input.toLowerCase()] : undefined
    return here === undefined
      ? 'expected auto, cpu or webgpu'
      : `${String(input)} is called ${here} here: expected auto, cpu or webgpu`
  },
})

export const DEVICE_OPTIONS = {
  device: {
    group: 'device',
    value: 'kind',
    help: 'auto (a hardware GPU, else cpu), cpu or webgpu',
    schema: kind,
    default: 'auto',
    commands: ON_DEVICE,
    trajectory: false,
  },
  adapter: {
    group: 'device',
    value: 'name',
    help: 'WebGPU adapter by (part of) its name; the only way to a software adapter',
    schema: text,
    commands: ON_DEVICE,
    trajectory: false,
  },
  transfer: {
    group: 'device',
    value: 'kind',
    help: 'WebGPU upload: auto (probed), ring or direct',
    schema: oneOf(['auto', 'ring', 'direct']),
    default: 'auto',
    commands: ON_DEVICE,
    trajectory: false,
    onlyWhen: ({ device }) => device !== 'cpu',
    otherwise: 'is about uploads to a WebGPU adapter: leave it out, or --device cpu',
  },
  blas: {
    group: 'device',
    value: 'name',
    help: 'library of large products on the cpu device: auto (MKL or Accelerate where it is found, else onnxruntime), onnxruntime, mkl, openblas, accelerate, or the path of one',
    schema: text,
    default: 'auto',
    commands: ON_DEVICE,
    trajectory: false,
    onlyWhen: ({ device }) => device !== 'webgpu',
    otherwise: 'is about products of the cpu device: leave it out, or --device cpu',
  },
  memory: {
    group: 'device',
    value: 'bytes',
    help: 'device memory budget, such as 256MiB or 4GiB',
    schema: bytes,
    default: 1024 * MiB,
    commands: ON_DEVICE,
    trajectory: false,
  },
  slab: {
    group: 'device',
    value: 'bytes',
    help: 'largest slab that travels at once',
    schema: bytes,
    default: 64 * MiB,
    commands: ON_DEVICE,
    trajectory: false,
  },
  resident: {
    group: 'device',
    value: 'kind',
    help: 'weights kept on the device: auto (leading blocks that fit), none or all',
    schema: oneOf(['auto', 'none', 'all']),
    default: 'auto',
    commands: ON_DEVICE,
    trajectory: false,
  },
  activationDtype: {
    group: 'device',
    value: 'type',
    help: 'of activations on the device: float32, or float16, which halves them; moves losses by up to 0.02 %, projected gradients by 1 to 2 % at eps 1e-3, the more the smaller eps',
    schema: oneOf(['float32', 'float16']),
    default: 'float32',
    commands: ON_DEVICE,
    trajectory: true,
  },
  ram: {
    group: 'device',
    value: 'bytes',
    help: 'folded weights stay in memory up to this size, else in a scratch file',
    schema: bytes,
    default: 128 * MiB,
    commands: ['finetune', 'pretrain', 'plan', 'bench', 'fromPretrained'],
    trajectory: false,
  },
  scratchDir: {
    group: 'device',
    value: 'dir',
    help: 'folder of the scratch file (default: the output folder)',
    schema: path,
    commands: ['finetune', 'pretrain', 'bench', 'fromPretrained'],
    trajectory: false,
    card: 'hidden',
  },
  threads: {
    group: 'device',
    value: 'n',
    help: 'CPU threads',
    // More than machines have; the system would be asked for each of them.
    schema: countAtMost(1024),
    default: availableParallelism(),
    commands: [...ON_DEVICE, 'export'],
    trajectory: false,
  },
} as const satisfies Record<string, OptionSpec>

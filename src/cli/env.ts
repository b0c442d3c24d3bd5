// The command for bug reports: env.
// Adapters are listed by src/device/webgpu, the processor's kernels by src/device/cpu.

import { arch, cpus, release, totalmem } from 'node:os'
import { Command } from 'commander'
import { openCpu } from '../device/cpu/device.ts'
import { listAdapters } from '../device/webgpu/device.ts'
import { table } from '../util/console.ts'
import { formatBytes } from '../util/units.ts'
import { VERSION } from '../util/version.ts'
import type { ContextOf, Flags } from './flags.ts'

export function envCommand(contextOf: ContextOf): Command {
  return new Command('env')
    .description('versions, processor, memory and WebGPU adapters; paste it into a bug report')
    .action(async (flags: Flags) => {
      const { result } = contextOf(flags)
      const cpu = await openCpu({ blas: 'auto' })
      const cpuDetail = cpu.info.detail
      await cpu.close()
      const adapters = await listAdapters()
      const json = {
        zo2: VERSION,
        node: process.version,
        system: `${process.platform} ${arch()} ${release()}`,
        processor: cpus()[0]?.model.trim() ?? 'unknown',
        cores: cpus().length,
        memory_bytes: totalmem(),
        cpu_device: cpuDetail,
        webgpu_adapters: adapters,
      }
      result(json, () => [
        ...table([
          ['zo2', VERSION],
          ['node', json.node],
          ['system', json.system],
          ['processor', `${json.processor} (${json.cores} cores)`],
          ['memory', formatBytes(json.memory_bytes)],
          ['cpu device', cpuDetail],
        ]),
        ...(adapters.length > 0
          ? adapters.map(
              (a) => `  webgpu      ${a.name}${a.software ? ' (software, only by --adapter)' : ''}`,
            )
          : [
              '  webgpu      no adapter: install your GPU driver, or run scripts/setup-vulkan.sh for a software one',
            ]),
      ])
    })
}

// Validates the WGSL of every kernel, in all variants that adapters get, by a second compiler: naga, the
// one of wgpu and Firefox. As Metal, HLSL and SPIR-V too, since that is what drivers see in the end.
//
//   npx tsx scripts/validate-wgsl.ts
//
// Takes naga from $NAGA or the PATH, else builds it once with cargo into .cache/ (five minutes). It refuses
// two lines that Dawn wants, and has what they ask for without them: they are taken out before. Its
// command line cannot be told where Metal and HLSL have immediates: for them these are a uniform.

import { execFile, execFileSync } from 'node:child_process'
import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { availableParallelism, tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { promisify } from 'node:util'
import PQueue from 'p-queue'
import { kernelSource, type KernelSpec } from '../src/device/webgpu/kernel.ts'
import type { RowTypes } from '../src/device/webgpu/kernels/elements.ts'

const NAGA_VERSION = '30.0.1'
const REFUSED = ['requires immediate_address_space;', 'enable subgroups;']
/** Targets with the least version that has subgroups and f16. */
const TARGETS = [
  ['spv', '--spirv-version', '1.3'],
  ['metal', '--metal-version', '2.1'],
  ['hlsl', '--shader-model', '62'],
] as const
const IMMEDIATES = 'var<immediate> params'
const UNIFORM = '@group(1) @binding(0) var<uniform> params'

const ROOT = resolve(import.meta.dirname, '..')
const KERNELS = join(ROOT, 'src/device/webgpu/kernels')
const OWN_NAGA = join(ROOT, '.cache/naga')

const ELEMENTS = [['f32'], ['f16']]
const ROWS: RowTypes[] = [
  { x: 'f32', y: 'f32' },
  { x: 'f16', y: 'f16' },
  { x: 'f16', y: 'f32' },
]
/** Invocations of subgroups that adapters have: SwiftShader 4, lavapipe 4 or 8, GPUs the others. */
const LANES = [4, 8, 16, 32, 64]
const HEAD_SIZES = [1, 5, 64, 80, 128, 256]

const across = <A, B>(first: readonly A[], second: readonly B[]) =>
  first.flatMap((a) => second.map((b) => [a, b] as const))

/** Arguments, one list for each variant, of the functions that make kernels. */
const VARIANTS: Readonly<Record<string, readonly (readonly unknown[])[]>> = {
  activationKernel: across(['relu', 'gelu', 'gelu_new'], ['f32', 'f16']),
  addKernel: ELEMENTS,
  attentionKernel: across(HEAD_SIZES, ['f32', 'f16']),
  attentionSubgroupKernel: across([4, 64, 80, 128], LANES).flatMap((shape) =>
    ELEMENTS.map((type) => [...shape, ...type]),
  ),
  columnsKernel: ELEMENTS,
  gatherKernel: ELEMENTS,
  layerNormKernel: ELEMENTS,
  matmulRegisters: [
    [8, 1],
    [4, 8],
    [8, 8],
  ].flatMap((shape) => ROWS.map((types) => [...shape, types])),
  matmulShared: across([4, 8], ROWS),
  matmulSubgroup: subgroupShapes(),
  matmulTransposed: ROWS.map((types) => [types]),
  matmulTransposedSubgroup: subgroupShapes(),
  perturbKernel: across(['F32', 'F16', 'BF16'], ['gaussian', 'rademacher']),
  scatterKernel: [...ROWS.slice(0, 2), { x: 'f32', y: 'f16' } as const].map((types) => [types]),
}

/** Functions beside those that make kernels. */
const OTHERS = [
  ...['blockWgsl', 'blocksOf', 'elementSpec', 'lines', 'matmulBindings', 'perturbSpan'],
  ...['read', 'read4'],
  ...['forEachElement', 'storeWgsl', 'stored', 'stored4', 'subgroupAttentionRows', 'suffix'],
]

function subgroupShapes() {
  return across(LANES, [16, 8]).flatMap(([lanes, rows]) =>
    ROWS.map((types) => [{ lanes, rows, types }]),
  )
}

type Spec = KernelSpec<Record<string, never>, Record<string, never>>
const isSpec = (value: unknown): value is Spec =>
  typeof value === 'object' && value !== null && 'body' in value && 'params' in value

/** Every kernel by a name of its own; throws for an export that is neither listed here nor one. */
async function allKernels(): Promise<Map<string, Spec>> {
  const found = new Map<string, Spec>()
  for (const file of readdirSync(KERNELS)) {
    const module = (await import(join(KERNELS, file))) as Record<string, unknown>
    for (const [name, value] of Object.entries(module)) {
      if (isSpec(value)) found.set(name, value)
      if (typeof value !== 'function' || OTHERS.includes(name)) continue
      const variants = VARIANTS[name]
      if (!variants) throw new Error(`kernels/${file}: ${name} is not known here: add its variants`)
      for (const variant of variants) {
        const made: unknown = (value as (...args: unknown[]) => unknown)(...variant)
        const spec = isSpec(made) ? made : (made as { spec: Spec }).spec
        found.set(`${name} ${JSON.stringify(variant)}`, spec)
      }
    }
  }
  return found
}

function findNaga(): string {
  const named = process.env['NAGA'] ?? 'naga'
  try {
    execFileSync(named, ['--version'], { stdio: 'ignore' })
    return named
  } catch {
    const own = join(OWN_NAGA, 'bin/naga')
    const args = ['install', 'naga-cli', '--version', NAGA_VERSION, '--locked', '--root', OWN_NAGA]
    if (!existsSync(own)) execFileSync('cargo', args, { stdio: 'inherit' })
    return own
  }
}

const naga = findNaga()
const kernels = await allKernels()
const folder = mkdtempSync(join(tmpdir(), 'zo2-wgsl-'))
const queue = new PQueue({ concurrency: availableParallelism() })
const refused: string[] = []
try {
  const checks = [...kernels].map(([name, spec], i) =>
    queue.add(async () => {
      const lines = kernelSource(spec).split('\n')
      const source = lines.filter((line) => !REFUSED.includes(line)).join('\n')
      for (const [target, ...version] of TARGETS) {
        const input = join(folder, `${i}-${target}.wgsl`)
        const own = target === 'spv' ? source : source.replace(IMMEDIATES, UNIFORM)
        writeFileSync(input, own)
        try {
          await promisify(execFile)(naga, [...version, input, join(folder, `${i}.${target}`)])
        } catch (error) {
          const { stderr = String(error) } = error as { stderr?: string }
          refused.push(`${name}, to ${target}:\n${stderr}`)
          break
        }
      }
    }),
  )
  await Promise.all(checks)
} finally {
  rmSync(folder, { recursive: true, force: true })
}
for (const fault of refused) process.stderr.write(`${fault}\n`)
process.stdout.write(`${kernels.size - refused.length} passed, ${refused.length} failed\n`)
process.exitCode = refused.length === 0 ? 0 : 1

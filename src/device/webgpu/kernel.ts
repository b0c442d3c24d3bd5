// A kernel is a typed spec and a plain WGSL body. The spec prints the declarations (bindings,
// parameters, constants), so that they cannot drift from what the host binds, and gives the types
// that a call is checked against. Parameters travel as immediates: 4-byte scalars, at most sixteen.
// Recording and submitting is commands.ts.

/** Access and element type of one storage buffer, seen by the shader as `array<element>`. */
export type Binding =
  `${'read' | 'read_write'} ${'f32' | 'f16' | 'u32' | 'vec4<f32>' | 'vec4<f16>' | 'vec4<u32>'}`
export type Bindings = Readonly<Record<string, Binding>>
export type Params = Readonly<Record<string, 'u32' | 'f32'>>

export interface KernelSpec<B extends Bindings, P extends Params> {
  readonly name: string
  /** Buffers in binding order; each is a WGSL variable of its name. */
  readonly bindings: B
  /** Scalars, read in the body as `params.name`. */
  readonly params: P
  /** Emitted as `const NAME = <value>u;`. */
  readonly constants?: Readonly<Record<string, number>>
  /** WGSL extensions; the device must have been opened with their features. */
  readonly enables?: readonly ('subgroups' | 'f16')[]
  /** Shared WGSL functions put in front of the body. */
  readonly snippets?: readonly string[]
  /** WGSL with one entry point `main`. */
  readonly body: string
}

/** Immediates that every adapter gives us, in bytes. */
export const PARAM_BYTES = 64

/** Identity, with the spec's literal types kept for the checks at each call. */
export function defineKernel<const B extends Bindings, const P extends Params>(
  spec: KernelSpec<B, P>,
): KernelSpec<B, P> {
  return spec
}

/** The complete WGSL source of a kernel. */
export function kernelSource(spec: KernelSpec<Bindings, Params>): string {
  const fields = Object.entries(spec.params).map(([name, type]) => `  ${name}: ${type},`)
  const buffers = Object.entries(spec.bindings).map(([name, binding], i) => {
    const [access, element] = binding.split(' ')
    return `@group(0) @binding(${i}) var<storage, ${access}> ${name}: array<${element}>;`
  })
  const constants = Object.entries(spec.constants ?? {}).map(([k, v]) => `const ${k} = ${v}u;`)
  return [
    `// ${spec.name}`,
    ...(spec.enables ?? []).map((name) => `enable ${name};`),
    'requires immediate_address_space;',
    ...['struct Params {', ...fields, '}', 'var<immediate> params: Params;'],
    ...buffers,
    ...constants,
    ...(spec.snippets ?? []),
    spec.body,
  ].join('\n')
}

export interface Kernel<B extends Bindings, P extends Params> {
  readonly spec: KernelSpec<B, P>
  readonly pipeline: GPUComputePipeline
  readonly layout: GPUBindGroupLayout
}

/**
 * Builds a kernel's pipeline. It can be recorded at once; `checked` resolves when the driver has
 * accepted it and rejects with the compiler's message and the numbered source when it has not.
 */
export function compileKernel<B extends Bindings, P extends Params>(
  gpu: GPUDevice,
  spec: KernelSpec<B, P>,
): { kernel: Kernel<B, P>; checked: Promise<void> } {
  const code = kernelSource(spec)
  gpu.pushErrorScope('validation')
  gpu.pushErrorScope('internal')
  const module = gpu.createShaderModule({ label: spec.name, code })
  const layout = gpu.createBindGroupLayout({
    entries: Object.values(spec.bindings).map((access, binding) => ({
      binding,
      visibility: 4, // GPUShaderStage.COMPUTE
      buffer: { type: access.startsWith('read_write') ? 'storage' : 'read-only-storage' },
    })),
  })
  const pipeline = gpu.createComputePipeline({
    label: spec.name,
    layout: gpu.createPipelineLayout({
      bindGroupLayouts: [layout],
      immediateSize: Object.keys(spec.params).length * 4,
    }),
    compute: { module, entryPoint: 'main' },
  })
  const scopes = Promise.all([gpu.popErrorScope(), gpu.popErrorScope()])
  const checked = scopes.then(async (errors) => {
    const error = errors.find((e) => e !== null)
    if (error) throw await shaderError(spec.name, code, module, error)
  })
  return { kernel: { spec, pipeline, layout }, checked }
}

async function shaderError(name: string, code: string, module: GPUShaderModule, error: GPUError) {
  const { messages } = await module.getCompilationInfo()
  const faults = messages
    .filter((m) => m.type === 'error')
    .map((m) => `line ${m.lineNum}:${m.linePos}: ${m.message}`)
  const numbered = code.split('\n').map((line, i) => `${String(i + 1).padStart(4)} ${line}`)
  const said = faults.length > 0 ? faults.join('\n') : error.message
  return new Error(
    `kernel ${name} was refused by the shader compiler: ${said}\n${numbered.join('\n')}`,
  )
}

const words = new Uint32Array(PARAM_BYTES / 4)
const floats = new Float32Array(words.buffer)

/** Parameters in the layout of the shader's struct; valid until the next call. */
export function packParams(
  types: Params,
  values: Readonly<Record<string, number>>,
): Uint32Array<ArrayBuffer> {
  const names = Object.keys(types)
  names.forEach((name, i) => {
    if (types[name] === 'f32') floats[i] = values[name]!
    else words[i] = values[name]!
  })
  return words.subarray(0, names.length)
}

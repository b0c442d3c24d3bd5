// A model as a GGUF file, with the metadata, names and order of rows that llama.cpp's conversion scripts give it. Sizes
// come from the model's program and not from config.json, so that no default of a class is known here. What
// llama.cpp cannot say of a model is refused. Bytes are src/checkpoint/gguf/write.ts's.

import { mkdir } from 'node:fs/promises'
import { basename, dirname, resolve } from 'node:path'
import { convertChecked } from '../checkpoint/convert.ts'
import { openFiles } from '../checkpoint/files.ts'
import { FAMILIES, ggufName, treatmentOf, type Family } from '../checkpoint/gguf/names.ts'
import { GGML_TYPES } from '../checkpoint/gguf/types.ts'
import {
  writeGguf,
  type Written,
  type WrittenTensor,
  type WrittenType,
} from '../checkpoint/gguf/write.ts'
import type { TensorEntry } from '../checkpoint/types.ts'
import type { LoadedModel } from '../engine/load.ts'
import { findTensors } from '../engine/tensors.ts'
import type { Model, Op } from '../../models/model.ts'
import { UserError } from '../util/errors.ts'
import { tokenizerMetadata } from './gguf-tokenizer.ts'

/** Of general.file_type: what most tensors are. */
const FILE_TYPES: Readonly<Record<WrittenType, number>> = { F32: 0, F16: 1, Q8_0: 7, BF16: 32 }

/** model_types that llama.cpp has under another name. */
const SAME: Readonly<Record<string, string>> = { mistral: 'llama' }

interface GgufOptions {
  /** Of the matrices; as they are if left out. */
  readonly type?: WrittenType | undefined
  readonly onProgress?: (doneBytes: number, totalBytes: number) => void
}

/**
 * Writes the model to the file `out`, which appears whole or not at all.
 * @throws UserError for models that the format cannot hold, and values that the type cannot
 */
export async function exportGguf(
  loaded: Pick<LoadedModel, 'source' | 'dir' | 'checkpoint' | 'model'>,
  out: string,
  { type, onProgress = () => {} }: GgufOptions = {},
): Promise<void> {
  const { checkpoint, model } = loaded
  const family = familyOf(model)
  const found = findTensors(model, checkpoint)
  const written = type ?? found.matrices[0]!.entry.dtype
  const architecture = architectureMetadata(family, model, checkpoint.config)
  const tensors = [
    ...architecture.tensors,
    ...found.matrices.map(({ entry }) => tensorOf(family, model, entry, written)),
    ...found.vectors.map((entry) => tensorOf(family, model, entry, 'F32')),
  ]
  const metadata: Written[] = [
    ['general.architecture', 'text', family.architecture],
    ['general.type', 'text', 'model'],
    ['general.name', 'text', basename(resolve(loaded.source)).replace(/\.gguf$/, '')],
    ...architecture.metadata,
    ['general.file_type', 'u32', FILE_TYPES[written]],
    ['general.quantization_version', 'u32', 2],
    ...(await tokenizerMetadata(loaded)),
  ]
  const files = await openFiles(checkpoint.files)
  try {
    await mkdir(dirname(resolve(out)), { recursive: true })
    await writeGguf(out, metadata, tensors, files, convertChecked, onProgress)
  } finally {
    await files.close()
  }
}

function familyOf({ modelType }: Model): Family {
  const name = SAME[modelType] ?? modelType
  const found = FAMILIES.find((family) => family.modelType === name)
  if (found) return found
  const known = [...FAMILIES.map((family) => family.modelType), ...Object.keys(SAME)].join(', ')
  throw new UserError(
    `a model of model_type ${modelType} cannot be written as GGUF; those that can: ${known}`,
  )
}

const cannot = (what: string) =>
  new UserError(`this model cannot be written as GGUF: ${what}, which llama.cpp does not know`)

/** A tensor of the model by the file's name; matrices whose rows are no whole blocks are f16, positions f32. */
function tensorOf(family: Family, model: Model, entry: TensorEntry, type: WrittenType) {
  const { name, shape } = entry
  const own = ggufName(family, name)
  if (own === undefined) throw cannot(`it has a tensor ${name}`)
  const { permuted, shifted, transposed } = treatmentOf(family, name)
  const turned = transposed && shape.length === 2 ? shape.toReversed() : shape
  const isWhole = turned.at(-1)! % GGML_TYPES[type].elements === 0
  const written: WrittenTensor = {
    name: own,
    type: own === 'position_embd.weight' ? 'F32' : isWhole ? type : 'F16',
    shape: turned,
    source: entry,
    ...(permuted && { headRows: model.attention.headSize }),
    ...(turned !== shape && { transposed: true }),
    ...(shifted && { plus: 1 }),
  }
  return written
}

type OpOf<Kind extends Op['kind']> = Extract<Op, { kind: Kind }>

const opsOf = <Kind extends Op['kind']>({ ops }: Model, kind: Kind) =>
  ops.filter((op): op is OpOf<Kind> => op.kind === kind)

/** Metadata of the architecture, and tensors that are made of its configuration. */
function architectureMetadata(
  family: Family,
  model: Model,
  config: Readonly<Record<string, unknown>>,
): { metadata: Written[]; tensors: WrittenTensor[] } {
  const { attention } = model
  const u32 = (key: string, value: number): Written => [
    `${family.architecture}.${key}`,
    'u32',
    value,
  ]
  const f32 = (key: string, value: number): Written => [
    `${family.architecture}.${key}`,
    'f32',
    value,
  ]
  const common = [
    u32('block_count', model.layers),
    u32('embedding_length', model.hidden),
    u32('feed_forward_length', feedForward(model)),
    u32('attention.head_count', attention.heads),
    u32('vocab_size', model.vocabSize),
  ]
  checkActivation(family, model)
  if (family.modelType === 'gpt2') {
    const eps = opsOf(model, 'layerNorm')[0]!.eps
    const own = [
      u32('context_length', model.maxPositions),
      f32('attention.layer_norm_epsilon', eps),
    ]
    return { metadata: [...common, ...own], tensors: [] }
  }
  const window = windowMetadata(family, model)
  const rope = ropeMetadata(family, model, config)
  checkScale(family, model)
  const cap = opsOf(model, 'head')[0]!.cap
  return {
    metadata: [
      ...common,
      u32('context_length', window.context),
      u32('attention.head_count_kv', attention.kvHeads),
      u32('attention.key_length', attention.headSize),
      u32('attention.value_length', attention.headSize),
      f32('attention.layer_norm_rms_epsilon', opsOf(model, 'rmsNorm')[0]!.eps),
      ...(attention.cap === undefined ? [] : [f32('attn_logit_softcapping', attention.cap)]),
      ...(cap === undefined ? [] : [f32('final_logit_softcapping', cap)]),
      ...window.metadata.map(([key, value]): Written =>
        typeof value === 'number'
          ? u32(key, value)
          : [`${family.architecture}.${key}`, 'bool', value],
      ),
      ...rope.metadata.map(([key, value]): Written =>
        typeof value === 'string'
          ? [`${family.architecture}.${key}`, 'text', value]
          : /count|length/.test(key)
            ? u32(key, value)
            : f32(key, value),
      ),
    ],
    tensors: rope.tensors,
  }
}

function feedForward({ matrices, modelType }: Model): number {
  const [name, share] =
    modelType === 'gpt2'
      ? ['.mlp.c_fc.', 1]
      : modelType === 'phi3'
        ? ['.gate_up_proj.', 2]
        : ['.up_proj.', 1]
  const { rows, cols, transposed } = matrices.find((matrix) =>
    matrix.name.includes(name as string),
  )!
  return (transposed ? cols : rows) / Number(share)
}

/** The architecture names no activation: it has its own. */
function checkActivation({ architecture }: Family, model: Model): void {
  const expected = /^(gemma|gpt2)/.test(architecture) ? 'gelu_new' : 'silu'
  const used = [...opsOf(model, 'gate'), ...opsOf(model, 'activation')].map(({ f }) => f)
  const other = used.find((f) => f !== expected)
  if (other !== undefined) throw cannot(`its activation is ${other} and not ${expected}`)
}

/** The largest Gemmas, by their layers, scale scores by the hidden size; all other models by the head's. */
function checkScale({ modelType }: Family, { attention, layers, hidden }: Model): void {
  const isLargest = layers === { gemma2: 46, gemma3_text: 62 }[modelType]
  const expected = (isLargest ? hidden / attention.heads : attention.headSize) ** -0.5
  if (Math.abs(attention.scale - expected) <= 1e-9) return
  throw cannot(`its scores are scaled by ${attention.scale} and not ${expected}`)
}

/** Windows of the layers. Those of a llama (Mistral) have no key: its texts are no longer than its window. */
function windowMetadata({ architecture, modelType }: Family, model: Model) {
  const windows = opsOf(model, 'attention').map(({ window }) => window)
  const sizes = new Set(windows.filter((window) => window !== undefined))
  const context = model.maxPositions
  const metadata: [string, number | readonly boolean[]][] = []
  if (architecture === 'llama' && sizes.size === 1) {
    return { context: Math.min(context, [...sizes][0]!), metadata }
  }
  const [size = 0] = sizes
  if (modelType === 'phi3') metadata.push(['attention.sliding_window', size])
  if (!/^(gemma[23]|phi3)/.test(modelType) && sizes.size > 0)
    throw cannot('its layers have windows')
  if (!/^gemma[23]/.test(modelType)) return { context, metadata }
  metadata.push(['attention.sliding_window', size || context])
  const usual = modelType === 'gemma2' ? 2 : 6
  const isUsual = windows.every((window, i) => (window !== undefined) === ((i + 1) % usual !== 0))
  if (isUsual) return { context, metadata }
  if (modelType === 'gemma2') throw cannot('other layers than every second one have windows')
  metadata.push(['attention.sliding_window_pattern', windows.map((window) => window !== undefined)])
  return { context, metadata }
}

/** The rope as its base, and as the factor or the divisors by which its frequencies are lower than that base has them. */
function ropeMetadata(family: Family, model: Model, config: Readonly<Record<string, unknown>>) {
  const [rope, local] = model.ropes!
  const parameters = { ...config, ...ropeParameters(config) }
  const usual = family.modelType === 'gemma3_text' ? 1_000_000 : 10_000
  const theta = Number(parameters['rope_theta'] ?? usual)
  const count = rope!.frequencies.length
  const divisorsOf = (frequencies: readonly number[], base = theta) =>
    frequencies.map((f, i) => base ** (-i / count) / f)
  const isOne = (divisors: readonly number[]) => divisors.every((d) => Math.abs(d - 1) < 1e-9)
  const metadata: [string, number | string][] = [
    ['rope.freq_base', theta],
    ['rope.dimension_count', 2 * count],
  ]
  const tensor = (name: string, values: readonly number[]): WrittenTensor => {
    return { name, type: 'F32', shape: [values.length], source: Float32Array.from(values) }
  }
  if (local && !isOne(divisorsOf(local.frequencies, 10_000))) {
    const base = local.frequencies[1]! ** -count
    if (!isOne(divisorsOf(local.frequencies, base))) throw cannot('its second rope is stretched')
    metadata.push(['rope.freq_base_swa', base])
  }
  const divisors = divisorsOf(rope!.frequencies)
  const [first] = divisors as [number]
  if (family.modelType === 'phi3') {
    const original = Number(parameters['original_max_position_embeddings'] ?? model.maxPositions)
    metadata.push(['rope.scaling.original_context_length', original])
    if (!rope!.long) return { metadata, tensors: [] }
    metadata.push(['rope.scaling.attn_factor', rope!.factor])
    return {
      metadata,
      tensors: [
        tensor('rope_factors_long.weight', divisorsOf(rope!.long.frequencies)),
        tensor('rope_factors_short.weight', divisors),
      ],
    }
  }
  const isOneList =
    !rope!.long || rope!.long.frequencies.every((f, i) => f === rope!.frequencies[i])
  const type = parameters['rope_type'] ?? parameters['type']
  if (type === 'yarn') {
    const own = [
      'beta_fast',
      'beta_slow',
      'attention_factor',
      'mscale',
      'truncate',
      'mscale_all_dim',
    ]
    const given = own.find((key) => parameters[key] !== undefined)
    if (given !== undefined) throw cannot(`its rope is yarn with ${given}`)
    const original = Number(parameters['original_max_position_embeddings'])
    metadata.push(['rope.scaling.type', 'yarn'])
    metadata.push(['rope.scaling.factor', Number(parameters['factor'])])
    metadata.push(['rope.scaling.original_context_length', original])
    return { metadata, tensors: [] }
  }
  if (rope!.factor !== 1 || !isOneList) throw cannot(`its rope is ${String(type)}`)
  if (isOne(divisors)) return { metadata, tensors: [] }
  if (isOne(divisors.map((d) => d / first))) {
    metadata.push(['rope.scaling.type', 'linear'], ['rope.scaling.factor', first])
    return { metadata, tensors: [] }
  }
  if (family.architecture !== 'llama') throw cannot(`its rope is ${String(type)}`)
  return { metadata, tensors: [tensor('rope_freqs.weight', divisors)] }
}

/** rope_scaling or rope_parameters, of Gemma 3 those of the layers that see all. */
function ropeParameters(config: Readonly<Record<string, unknown>>): Record<string, unknown> {
  const given = (config['rope_scaling'] ?? config['rope_parameters'] ?? {}) as Record<
    string,
    unknown
  >
  return (given['full_attention'] ?? given) as Record<string, unknown>
}

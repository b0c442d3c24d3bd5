// The element types of GGUF files: their numbers, and how many bytes how many elements take. What the bytes mean is
// decode.ts's matter.
// Source: ggml's ggml.h; the `gguf` package's constants.py.

/** Types that can be read. */
export type GgmlType =
  | 'F32'
  | 'F16'
  | 'BF16'
  | 'Q4_0'
  | 'Q4_1'
  | 'Q5_0'
  | 'Q5_1'
  | 'Q8_0'
  | 'Q2_K'
  | 'Q3_K'
  | 'Q4_K'
  | 'Q5_K'
  | 'Q6_K'

interface Layout {
  /** As files have it. */
  readonly id: number
  /** Elements of a block; rows are whole blocks. */
  readonly elements: number
  readonly bytes: number
}

export const GGML_TYPES: Readonly<Record<GgmlType, Layout>> = {
  F32: { id: 0, elements: 1, bytes: 4 },
  F16: { id: 1, elements: 1, bytes: 2 },
  BF16: { id: 30, elements: 1, bytes: 2 },
  Q4_0: { id: 2, elements: 32, bytes: 18 },
  Q4_1: { id: 3, elements: 32, bytes: 20 },
  Q5_0: { id: 6, elements: 32, bytes: 22 },
  Q5_1: { id: 7, elements: 32, bytes: 24 },
  Q8_0: { id: 8, elements: 32, bytes: 34 },
  Q2_K: { id: 10, elements: 256, bytes: 84 },
  Q3_K: { id: 11, elements: 256, bytes: 110 },
  Q4_K: { id: 12, elements: 256, bytes: 144 },
  Q5_K: { id: 13, elements: 256, bytes: 176 },
  Q6_K: { id: 14, elements: 256, bytes: 210 },
}

/** Types that are known by name only. */
const OTHERS: Readonly<Record<number, string>> = {
  9: 'Q8_1',
  15: 'Q8_K',
  16: 'IQ2_XXS',
  17: 'IQ2_XS',
  18: 'IQ3_XXS',
  19: 'IQ1_S',
  20: 'IQ4_NL',
  21: 'IQ3_S',
  22: 'IQ2_S',
  23: 'IQ4_XS',
  24: 'I8',
  25: 'I16',
  26: 'I32',
  27: 'I64',
  28: 'F64',
  29: 'IQ1_M',
  34: 'TQ1_0',
  35: 'TQ2_0',
  39: 'MXFP4',
}

const BY_ID = new Map(
  Object.entries(GGML_TYPES).map(([name, { id }]) => [id, name as GgmlType] as const),
)

/** The type of that number, if it can be read. */
export const ggmlType = (id: number): GgmlType | undefined => BY_ID.get(id)

/** A name for any number. */
export const ggmlTypeName = (id: number): string => BY_ID.get(id) ?? OTHERS[id] ?? `type ${id}`

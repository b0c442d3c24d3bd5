// The special tokens of a model type where the settings in its folder name none: the defaults of its
// tokenizer class in `transformers`.

export interface Defaults {
  readonly bos?: string
  readonly eos: string
  readonly pad?: string
  /** Whether a folder of vocab.json and merges.txt without tokenizer_config.json begins texts with BOS. */
  readonly addsBos: boolean
}

// OPT's folders name their tokens; one without any settings is taken as facebook/opt-*.
const OPT: Defaults = { bos: '</s>', eos: '</s>', pad: '<pad>', addsBos: true }
const GPT2: Defaults = { bos: '<|endoftext|>', eos: '<|endoftext|>', addsBos: false }
const LLAMA: Defaults = { bos: '<s>', eos: '</s>', addsBos: false }
const QWEN: Defaults = { eos: '<|endoftext|>', pad: '<|endoftext|>', addsBos: false }
const GEMMA: Defaults = { bos: '<bos>', eos: '<eos>', pad: '<pad>', addsBos: false }

const BY_TYPE: Readonly<Record<string, Defaults>> = {
  gpt2: GPT2,
  llama: LLAMA,
  mistral: LLAMA,
  phi3: LLAMA,
  smollm3: { bos: '<|begin_of_text|>', eos: '<|end_of_text|>', addsBos: false },
  qwen2: QWEN,
  qwen3: QWEN,
  gemma: GEMMA,
  gemma2: GEMMA,
  gemma3_text: GEMMA,
}

/** Those of a model_type; OPT's for one that is not known. */
export function defaultsFor(modelType: unknown): Defaults {
  const isKnown = typeof modelType === 'string' && Object.hasOwn(BY_TYPE, modelType)
  return isKnown ? BY_TYPE[modelType]! : OPT
}

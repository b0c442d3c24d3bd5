// The tokenizer of a GGUF file: the objects that its metadata stands for (src/checkpoint/gguf/tokenizer.ts), read as
// the files of a folder are.

import { ggufTokenizer } from '../checkpoint/gguf/tokenizer.ts'
import type { Checkpoint } from '../checkpoint/types.ts'
import { UserError } from '../util/errors.ts'
import { chatTemplateIn } from './chat-template.ts'
import { tokenizerFilesOf } from './tokenizer-files.ts'
import { addedIn, tokenizerOfFiles } from './tokenizer.ts'
import type { Tokenizer } from './types.ts'

/** @throws UserError for a checkpoint of another format, and for a tokenizer that is damaged or of another kind */
export function loadGgufTokenizer({ files, gguf }: Pick<Checkpoint, 'files' | 'gguf'>): Tokenizer {
  const file = files[0]!
  if (!gguf) throw new UserError(`${file}: expected a GGUF file, found another`)
  const { tokenizer, settings, ends } = ggufTokenizer(file, gguf)
  const read = tokenizerFilesOf(file, tokenizer, settings)
  const made = tokenizerOfFiles(read, async () =>
    chatTemplateIn(file, settings, read.roles, addedIn(read)),
  )
  return { ...made, eosIds: ends.length > 0 ? ends : made.eosIds }
}

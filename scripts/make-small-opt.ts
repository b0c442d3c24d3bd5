// Writes test/fixtures/small-opt: tiny-opt's tokenizer before few seeded weights, for tests that are about a
// run and not about what its model says. Run: npx tsx scripts/make-small-opt.ts

import { copyFile } from 'node:fs/promises'
import { join } from 'node:path'
import { SMALL, TINY } from '../test/helpers/cli.ts'
import { writeSyntheticOpt } from '../test/helpers/synthetic-opt.ts'

const TEXT_FILES = [
  'generation_config.json',
  'merges.txt',
  'special_tokens_map.json',
  'tokenizer_config.json',
  'vocab.json',
]

const shape = { hidden: 32, ffn: 64, vocab: 4096, layers: 2, heads: 2, positions: 512 }
await writeSyntheticOpt(SMALL, shape, 'F16')
for (const name of TEXT_FILES) await copyFile(join(TINY, name), join(SMALL, name))

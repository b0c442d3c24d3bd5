// Greedy tokens of a GGUF file by llama.cpp and by zo2, for prompts that both tokenize themselves: what zo2 writes, others
// can run. Needs `npm install --ignore-scripts node-llama-cpp` in some folder, which brings a build of llama.cpp.
//   NODE_LLAMA_CPP=FOLDER node scripts/check-llama-cpp.mjs FILE.gguf [tokens]

import { execFileSync } from 'node:child_process'
import { createRequire } from 'node:module'
import { join, resolve } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'

const PROMPTS = [
  'The capital of France is',
  'Once upon a time, there was a little',
  'Water boils at a temperature of',
  'def fibonacci(n):\n',
  'The three primary colours are',
]
const [file, count = '32'] = process.argv.slice(2)
const folder = process.env.NODE_LLAMA_CPP
if (!file || !folder) {
  console.error('usage: NODE_LLAMA_CPP=FOLDER node scripts/check-llama-cpp.mjs FILE.gguf [tokens]')
  process.exit(2)
}
const entry = createRequire(join(resolve(folder), 'package.json')).resolve('node-llama-cpp')
const { getLlama } = await import(pathToFileURL(entry).href)

const zo2 = fileURLToPath(new URL('../bin/zo2.js', import.meta.url))
const args = ['generate', file, '--prompt', ...PROMPTS, '--max-new-tokens', count, '--json']
const { tokens: ours } = JSON.parse(
  execFileSync(process.execPath, [zo2, ...args, '--device', 'cpu', '--quiet'], {
    encoding: 'utf8',
  }),
)

const llama = await getLlama({ gpu: false, build: 'never' })
const model = await llama.loadModel({ modelPath: resolve(file) })
let wrong = 0
for (const [i, prompt] of PROMPTS.entries()) {
  const context = await model.createContext({ contextSize: 512, threads: 1 })
  const theirs = []
  const start = model.tokenize(prompt)
  for await (const token of context.getSequence().evaluate(start, { temperature: 0 })) {
    if (model.isEogToken(token) || theirs.push(token) === ours[i].length) break
  }
  await context.dispose()
  const same = theirs.findIndex((token, at) => token !== ours[i][at])
  const equal = same < 0 && theirs.length === ours[i].length
  if (!equal) wrong++
  console.log(
    `${JSON.stringify(prompt)}: ${equal ? theirs.length : same} of ${ours[i].length} tokens equal`,
  )
}
await model.dispose()
process.exitCode = wrong === 0 ? 0 : 1

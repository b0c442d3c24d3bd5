// Talking with a model: turns from standard input, answers as they are made, in the model's own chat template.
// Alone: npx vitest run test/runs/chat.test.ts

import { copyFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { beforeAll, expect, it } from 'vitest'
import { cli, here, hereJson, SMALL } from '../helpers/cli.ts'
import { decoderConfig, writeHashed } from '../helpers/hashed.ts'
import { temporaryFolder } from '../helpers/hostile.ts'

const model = join(temporaryFolder(), 'llama')
const TEMPLATE = `{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}
{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}`
const CPU = ['--device', 'cpu', '--threads', '1', '--max-new-tokens', '6', '--quiet']

interface Message {
  readonly role: string
  readonly content: string
}
const talk = async (lines: string, ...more: string[]) => {
  const shell = `printf '${lines}' | "$0" "$@"`
  const ended = await cli(['chat', model, ...CPU, ...more], { shell })
  expect(ended).toMatchObject({ code: 0, stderr: '' })
  return ended.stdout
}

const generated = async (...args: string[]) =>
  (await hereJson(['generate', model, ...args, ...CPU]))['texts'] as string[]

beforeAll(async () => {
  await writeHashed(model, { ...decoderConfig('llama3'), vocab_size: 4096 })
  for (const name of ['tokenizer_config.json', 'vocab.json', 'merges.txt']) {
    copyFileSync(join(SMALL, name), join(model, name))
  }
  writeFileSync(join(model, 'chat_template.jinja'), TEMPLATE)
})

it('answers each line with the conversation before it in mind', async () => {
  const { messages } = JSON.parse(
    await talk('good morning\\n\\nand you\\n', '--json', '--system', 'be brief'),
  ) as { messages: Message[] }
  expect(messages.map(({ role }) => role).join()).toBe('system,user,assistant,user,assistant')
  const rendered = (some: readonly Message[]) =>
    `${some.map(({ role, content }) => `${role}: ${content}\n`).join('')}assistant:`
  for (const turn of [2, 4]) {
    const prompt = rendered(messages.slice(0, turn))
    const texts = await generated('--prompt', prompt)
    expect(messages[turn]!.content).toBe(texts[0])
    expect(texts[0]).not.toBe('')
  }
})

it('begins anew with /new, and prints answers as zo2 generate --chat does', async () => {
  const stdout = await talk('good morning\\n/new\\ngood morning\\n')
  const texts = await generated('--chat', '--prompt', 'good morning')
  expect(stdout).toBe(`${texts[0]}\n`.repeat(2))
})

it('leaves the oldest turns out where there is no room for them', async () => {
  const long = 'word '.repeat(10)
  const shell = `printf '${`${long}\\n`.repeat(4)}' | "$0" "$@"`
  const ended = await cli(['chat', model, ...CPU.slice(0, -1)], { shell })
  expect(ended.code).toBe(0)
  expect(ended.stderr).toContain('2 oldest turns are left out: no room')
})

it('says what a model without a template is for', async () => {
  const { code, stderr } = await here(['chat', SMALL, ...CPU])
  expect(code).toBe(1)
  expect(stderr).toContain('has no chat template')
  expect(stderr).toContain('zo2 generate --prompt')
})

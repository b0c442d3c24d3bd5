// Conversations: what chat templates make of them, their ids, and which tokens are the assistant's, as
// `transformers` 5.24 gives them (scripts/fixtures/chats.py); the forms in which data holds them; what is
// learned; templates that are refused. Tokenizers alone: tokenizer-families.test.ts.
// Alone: npx vitest run test/unit/chat.test.ts

import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { maskedIds } from '../../src/data/chat-data.ts'
import { chatTemplate, strftime, type Message } from '../../src/data/chat-template.ts'
import { loadExamples } from '../../src/data/examples.ts'
import { loadTokenizer } from '../../src/data/tokenizer.ts'
import { folder } from '../helpers/small-tokenizer.ts'

interface Chat {
  readonly family: string
  readonly name: string
  readonly template: string
  readonly conversations: readonly {
    readonly messages: Message[]
    readonly error?: string
    readonly text: string
    readonly prompt: string
    readonly ids: number[]
    readonly mask: number[]
  }[]
}

const fixture = (name: string) =>
  JSON.parse(readFileSync(new URL(`../fixtures/${name}.json`, import.meta.url), 'utf8')) as unknown
const { chats } = fixture('chats') as { chats: Chat[] }

async function modelFolder(family: string, files: Record<string, string>): Promise<string> {
  const { model_type, tokenizer, settings } = fixture(`tokenizer-families/${family}`) as {
    model_type: string
    tokenizer: object
    settings: { config: object }[]
  }
  return folder({
    'config.json': JSON.stringify({ model_type }),
    'tokenizer.json': JSON.stringify(tokenizer),
    'tokenizer_config.json': JSON.stringify(settings[0]!.config),
    ...files,
  })
}

describe.each(chats.map((chat) => [`${chat.family}, ${chat.name}`, chat] as const))(
  'a template for %s',
  (_, { family, template: source, conversations }) => {
    it('gives the text, the ids and the mask of transformers', async () => {
      const dir = await modelFolder(family, { 'chat_template.jinja': source })
      const tokenizer = await loadTokenizer(dir)
      const template = (await tokenizer.chatTemplate!())!
      for (const { messages, error, text, prompt, ids, mask } of conversations) {
        if (error !== undefined) {
          expect(() => template.render(messages)).toThrow(
            `chat_template.jinja: the chat template refuses the messages: ${JSON.stringify(error)}`,
          )
          continue
        }
        expect(template.render(messages)).toBe(text)
        const before = messages.slice(0, -1)
        expect(template.render(before, { addGenerationPrompt: true })).toBe(prompt)
        expect(tokenizer.encode(text, { bos: false })).toEqual(ids)
        const made = template.renderSpans(messages)
        expect(made.text).toBe(text)
        const masked = maskedIds(tokenizer, made.text, made.spans)
        expect(masked.ids).toEqual(ids)
        expect(masked.mask.map(Number), text).toEqual(mask)
      }
    })
  },
)

describe('chat data', () => {
  const { template, conversations } = chats[0]!
  const { messages, ids, mask } = conversations[1]!
  const learned = ids.map((id, i) => (mask[i] === 1 ? id : -100))

  async function examplesOf(records: object[], options: object = {}, withTemplate = true) {
    const dir = await modelFolder('qwen', {
      ...(withTemplate && { 'chat_template.jinja': template }),
      'data.jsonl': records.map((record) => JSON.stringify(record)).join('\n'),
    })
    const tokenizer = await loadTokenizer(dir)
    const set = await loadExamples(join(dir, 'data.jsonl'), tokenizer, {
      maxLength: 512,
      ...options,
    })
    return { ...set, tokenizer }
  }

  const from = messages.map(({ role, content }) => ({
    from: role === 'user' ? 'human' : 'gpt',
    value: content,
  }))
  const parts = messages.map(({ role, content }) => ({
    role,
    content: [{ type: 'text', text: content }],
  }))

  it.each([
    ['messages', { messages }],
    ['messages whose content is in parts', { messages: parts }],
    ['conversations', { conversations: from }],
  ])('of the form %s is learned where the assistant speaks', async (_, record) => {
    const { kind, examples, truncated } = await examplesOf([record])
    expect({ kind, truncated }).toEqual({ kind: 'chat', truncated: 0 })
    expect(examples).toEqual([{ inputIds: ids, labels: learned }])
  })

  it('is learned from the completion on where prompt and completion are lists', async () => {
    const record = { prompt: messages.slice(0, 3), completion: messages.slice(3) }
    const { examples } = await examplesOf([record])
    const first = learned.indexOf(-100, mask.indexOf(1))
    const second = learned.map((label, i) => (i < first ? -100 : label))
    expect(second.some((label) => label !== -100)).toBe(true)
    expect(second).not.toEqual(learned)
    expect(examples).toEqual([{ inputIds: ids, labels: second }])
  })

  it('is learned whole with loss on all', async () => {
    const { examples } = await examplesOf([{ messages }], { lossOn: 'all' })
    expect(examples).toEqual([{ inputIds: ids, labels: [-100, ...ids.slice(1)] }])
  })

  it('loses its end to the longest length, and is left out where nothing to learn is left', async () => {
    const first = mask.indexOf(1)
    const cut = await examplesOf([{ messages }], { maxLength: first + 1 })
    expect(cut.examples).toEqual([
      { inputIds: ids.slice(0, first + 1), labels: learned.slice(0, first + 1) },
    ])
    expect(cut.truncated).toBe(1)
    expect(cut.log).toContainEqual(expect.stringMatching(/1 of 1 records .* and were cut$/))
    const { log, examples } = await examplesOf(
      [{ messages }, { messages: conversations[0]!.messages }],
      { maxLength: conversations[0]!.mask.indexOf(1) + 1 },
    )
    expect(examples.length).toBe(1)
    expect(log).toContainEqual(expect.stringMatching(/with nothing to learn .* left out \(1\)$/))
  })

  it("of Alpaca's form is a user's turn and an answer, or Alpaca's prompt without a template", async () => {
    const record = { instruction: 'Add.', input: '2 and 2', output: '4' }
    const same = [
      { role: 'user', content: 'Add.\n\n2 and 2' },
      { role: 'assistant', content: '4' },
    ]
    expect((await examplesOf([record])).examples).toEqual(
      (await examplesOf([{ messages: same }])).examples,
    )
    const { examples, tokenizer, kind } = await examplesOf([record], {}, false)
    const prompt =
      'Below is an instruction that describes a task, paired with an input that provides further ' +
      'context. Write a response that appropriately completes the request.\n\n### Instruction:\nAdd.' +
      '\n\n### Input:\n2 and 2\n\n### Response:\n'
    const context = tokenizer.encode(prompt)
    const answer = [...tokenizer.encode('4'), tokenizer.eosId]
    expect(kind).toBe('completion')
    expect(examples).toEqual([
      { inputIds: [...context, ...answer], labels: [...context.map(() => -100), ...answer] },
    ])
  })

  it.each([
    [
      'a turn without text',
      [{ messages: [{ role: 'user', content: 7 }] }],
      {},
      true,
      /data.jsonl:1: message 1 of the column messages must have a role and a content of text/,
    ],
    [
      'no list',
      [{ messages: 'hello' }],
      {},
      true,
      /data.jsonl:1: expected a list of messages .* it is "hello"/,
    ],
    [
      'no template',
      [{ messages }],
      {},
      false,
      /holds conversations, but the model's folder has no chat template: take/,
    ],
    [
      'the private marks',
      [{ messages: [{ role: 'user', content: '\ue000' }] }],
      {},
      true,
      /data.jsonl:1: the messages have the private-use/,
    ],
    [
      'texts and loss on the assistant',
      [{ text: 'a b' }],
      { lossOn: 'assistant' },
      true,
      /holds texts, in which no turn is/,
    ],
  ] as const)('with %s is refused in one sentence', async (_, records, options, has, message) => {
    await expect(examplesOf([...records], options, has)).rejects.toThrow(message)
    await expect(examplesOf([...records], options, has)).rejects.toHaveProperty('name', 'UserError')
  })
})

describe('a chat template', () => {
  const user = [{ role: 'user', content: 'hi' }]
  const made = (source: string) => chatTemplate('t.jinja', source, { bos_token: '<s>' })

  it('is taken from tokenizer_config.json, of several the default one', async () => {
    const several = [
      { name: 'tool_use', template: 'no' },
      { name: 'default', template: '{{ messages[0].content }}' },
    ]
    for (const chat_template of [several, '{{ messages[0].content }}']) {
      const dir = await modelFolder('llama3', {
        'tokenizer_config.json': JSON.stringify({
          bos_token: '<|begin_of_text|>',
          eos_token: '<|eot_id|>',
          chat_template,
        }),
      })
      const template = await (await loadTokenizer(dir)).chatTemplate!()
      expect(template!.render(user)).toBe('hi')
    }
    const none = await loadTokenizer(await modelFolder('llama3', {}))
    expect(await none.chatTemplate!()).toBeUndefined()
  })

  it('is told a fixed date, and special tokens by their names', () => {
    expect(made("{{ bos_token }}{{ strftime_now('%d %b %Y') }}").render(user)).toBe(
      '<s>26 Jul 2024',
    )
    const date = new Date(Date.UTC(2025, 0, 5, 7, 8, 9))
    expect(strftime(date, '%A %a %B %-d %d %y %H:%M:%S %% %Q')).toBe(
      'Sunday Sun January 5 05 25 07:08:09 % %Q',
    )
  })

  it('writes JSON as Python does, without escapes of HTML or of other scripts', () => {
    expect(made('{{ messages | tojson }}').render([{ role: 'a', content: "<é'>" }])).toBe(
      `[{"role": "a", "content": "<é'>"}]`,
    )
  })

  it('that writes earlier turns otherwise when others follow is refused, unless marks tell them', () => {
    const last = "{% for m in messages %}{{ m.content if loop.last else 'gone' }};{% endfor %}"
    const talk = [...user, { role: 'assistant', content: 'yes' }, ...user]
    expect(() => made(last).renderSpans(talk)).toThrow(
      /^t.jinja: the chat template changes earlier turns .* give it {% generation %} marks, or train/,
    )
    const marked = last
      .replace('{{ m', '{% generation %}{{ m')
      .replace('}};', '}}{% endgeneration %};')
    expect(made(marked).renderSpans(talk)).toEqual({
      text: 'gone;gone;hi;',
      spans: [
        { start: 0, end: 4 },
        { start: 5, end: 9 },
        { start: 10, end: 12 },
      ],
    })
  })

  it('that does not end is stopped', () => {
    const loops =
      '{% for a in range(100000) %}{% for b in range(100000) %}{% set c = a %}{% endfor %}{% endfor %}'
    expect(() => made(loops).render(user)).toThrow(
      /t.jinja: the chat template has not ended after 2 s/,
    )
  }, 20_000)

  it.each([
    [
      'too much text',
      "{% for a in range(4000) %}{{ '" + 'y'.repeat(9000) + "' }}{% endfor %}",
      /makes more than 16 Mi characters/,
    ],
    ['a broken tag', '{% for %}', /t.jinja: the chat template cannot be used: "/],
    ['what is not there', '{{ nothing.at.all() }}', /t.jinja: the chat template cannot be used: "/],
  ])('with %s is refused', (_, source, message) => {
    expect(() => made(source).render(user)).toThrow(message)
  })
})

// A folder's chat template: where it stands, and conversations as the text that it makes of them, in the
// environment that Hugging Face `transformers` gives it. Rendering is `@huggingface/jinja`'s. Also which
// parts of the text the assistant says. A template is a program of a stranger: it sees the messages and
// nothing else, and its time and its output are bounded.
// Source of the rules: transformers `utils/chat_template_utils.py`, `tokenization_utils_base.py`.

import { join } from 'node:path'
import { createContext, Script } from 'node:vm'
import { Environment, Interpreter, Template } from '@huggingface/jinja'
import { UserError } from '../util/errors.ts'
import { excerpt, isObject, parseJson } from '../util/untrusted.ts'
import { readText } from './whole-file.ts'

/** One turn of a conversation, with whatever else its template knows of it. */
export interface Message {
  readonly role: string
  readonly content: unknown
  readonly [key: string]: unknown
}

/** A part of a text, in UTF-16 units. */
export interface Span {
  readonly start: number
  readonly end: number
}

export interface ChatTemplate {
  /** @throws UserError for a template that refuses the messages, is broken, or does not end */
  render(messages: readonly Message[], options?: { addGenerationPrompt?: boolean }): string
  /**
   * The text of a conversation, and what the assistant says in it, its end of turn with it.
   * @throws UserError where that cannot be told
   */
  renderSpans(messages: readonly Message[]): { text: string; spans: Span[] }
}

/** Names of special tokens in a template, such as bos_token, and their texts. */
export type SpecialTokens = Readonly<Record<string, string>>

const MAX_TEMPLATE_BYTES = 2 ** 20
const MAX_CONFIG_BYTES = 128 * 2 ** 20
const MAX_RENDER_MS = 2000
const MAX_RENDER_UNITS = 16 * 2 ** 20

/** What `strftime_now` says: Llama-3's own default date. Today's would make every day other data. */
export const TEMPLATE_DATE = new Date(Date.UTC(2024, 6, 26))

/**
 * The template of a model folder, or undefined where it has none: chat_template.jinja, else chat_template
 * of tokenizer_config.json, of several the one named "default".
 * @throws UserError for a template that is none
 */
export async function loadChatTemplate(
  dir: string,
  tokens: SpecialTokens,
  added: readonly string[] = [],
): Promise<ChatTemplate | undefined> {
  const file = join(dir, 'chat_template.jinja')
  const own = await readText(file, MAX_TEMPLATE_BYTES)
  if (own !== undefined) return chatTemplate(file, own, tokens, added)
  const path = join(dir, 'tokenizer_config.json')
  const text = await readText(path, MAX_CONFIG_BYTES)
  const config = text === undefined ? undefined : parseJson(text, path)
  return isObject(config) ? chatTemplateIn(path, config, tokens, added) : undefined
}

/** The same of a parsed tokenizer_config.json. */
export function chatTemplateIn(
  path: string,
  config: Readonly<Record<string, unknown>>,
  tokens: SpecialTokens,
  added: readonly string[] = [],
): ChatTemplate | undefined {
  const found = config['chat_template'] ?? undefined
  return found === undefined ? undefined : chatTemplate(path, ofSeveral(path, found), tokens, added)
}

function ofSeveral(path: string, found: unknown): string {
  const named = Array.isArray(found)
    ? found.filter(isObject).find((each) => each['name'] === 'default')?.['template']
    : found
  if (typeof named === 'string' && named.length <= MAX_TEMPLATE_BYTES) return named
  throw new UserError(
    `${path}: chat_template must be a text of at most ${MAX_TEMPLATE_BYTES} characters, or a list with ` +
      `one named "default", but it is ${excerpt(found)}`,
  )
}

// Stand around what a template's generation block prints; taken out of the text again.
const OPEN = '\ue000'
const CLOSE = '\ue001'
const MARKS = /[\ue000\ue001]/

/**
 * A template from its source.
 * @param place names it in errors
 * @param added texts of added tokens, in none of which a turn ends
 */
export function chatTemplate(
  place: string,
  source: string,
  tokens: SpecialTokens,
  added: readonly string[] = [],
): ChatTemplate {
  const template = compiled(place, withoutGeneration(source))
  const marked = GENERATION.test(source) ? compiled(place, withMarks(source)) : undefined
  const run = (program: Template, messages: readonly Message[], addGenerationPrompt: boolean) =>
    bounded(place, () => {
      const environment = new Environment()
      const variables = { ...tokens, messages, add_generation_prompt: addGenerationPrompt }
      for (const [name, value] of Object.entries({ ...GLOBALS, ...variables })) {
        environment.set(name, value)
      }
      return String(new Interpreter(environment).run(program.parsed).value)
    })
  const render: ChatTemplate['render'] = (messages, { addGenerationPrompt = false } = {}) =>
    run(template, messages, addGenerationPrompt)
  return {
    render,
    renderSpans(messages) {
      if (!marked) return bySteps(place, messages, render, added)
      if (MARKS.test(JSON.stringify(messages))) {
        throw new UserError(
          'the messages have the private-use characters U+E000 or U+E001, which mark what is learned: ' +
            'remove them',
        )
      }
      return takeMarks(run(marked, messages, false))
    },
  }
}

/** What every template has; tools and documents are none. */
const GLOBALS: Readonly<Record<string, unknown>> = {
  true: true,
  false: false,
  none: null,
  True: true,
  False: false,
  None: null,
  tools: null,
  documents: null,
  range,
  raise_exception: refuse,
  strftime_now: (format: unknown) => strftime(TEMPLATE_DATE, String(format)),
}

// Jinja's own bound in its sandbox.
const MOST_IN_RANGE = 100_000

function range(...bounds: number[]): number[] {
  const [start, stop, step = 1] = bounds.length > 1 ? bounds : [0, bounds[0]]
  const length = Math.max(0, Math.ceil((stop! - start!) / step))
  if (!(length <= MOST_IN_RANGE)) throw new Error(`a range of more than ${MOST_IN_RANGE}`)
  return Array.from({ length }, (_, i) => start! + i * step)
}

function compiled(place: string, source: string): Template {
  return bounded(place, () => new Template(source))
}

const GENERATION = /(?:^[ \t]*)?\{%(-?)\s*(end)?generation\s*(-?)%\}\n?/m
const EVERY_GENERATION = new RegExp(GENERATION, 'gm')

/** Generation tags as a comment, whose marks trim as theirs do. */
const withoutGeneration = (source: string) =>
  source.replace(
    EVERY_GENERATION,
    (_, left: string, _end, right: string) => `{{${left}''${right}}}`,
  )

/** As an expression that prints a mark. A block's tag takes the blanks before it and the line end after it. */
const withMarks = (source: string) =>
  source.replace(
    EVERY_GENERATION,
    (_, left: string, end: string | undefined, right: string) =>
      `{{${left}'${end ? CLOSE : OPEN}'${right}}}`,
  )

/** Takes the marks out of a text. */
function takeMarks(marked: string): { text: string; spans: Span[] } {
  const spans: Span[] = []
  let text = ''
  let start = 0
  for (const part of marked.split(/([\ue000\ue001])/)) {
    if (part === OPEN) start = text.length
    else if (part === CLOSE) spans.push({ start, end: text.length })
    else text += part
  }
  return { text, spans: spans.filter((span) => span.end > span.start) }
}

/** Assistant turns as what each adds to the text before it. */
function bySteps(
  place: string,
  messages: readonly Message[],
  render: ChatTemplate['render'],
  added: readonly string[],
): { text: string; spans: Span[] } {
  const text = render(messages)
  const spans: Span[] = []
  for (const [i, { role, content }] of messages.entries()) {
    if (role !== 'assistant') continue
    const before = render(messages.slice(0, i), { addGenerationPrompt: true })
    const after = i + 1 === messages.length ? text : render(messages.slice(0, i + 1))
    const start = before.length
    const end = text.startsWith(before) ? endOfTurn(text, after, start, content, added) : undefined
    if (end === undefined) {
      throw new UserError(
        `${place}: the chat template changes earlier turns when later ones follow, so that the assistant's ` +
          `turns cannot be told: give it {% generation %} marks, or train with --loss-on all`,
      )
    }
    if (end > start) spans.push({ start, end })
  }
  return { text, spans }
}

/**
 * Where a turn that begins at `start` ends in a text. `after` is the text up to it as the template writes
 * it when nothing follows: the beginning of the text, or with other words around what was said, as where
 * a template ends the last turn alone with the end token, or opens it with an empty thought.
 */
function endOfTurn(
  text: string,
  after: string,
  start: number,
  content: unknown,
  added: readonly string[],
): number | undefined {
  if (text.startsWith(after) && after.length >= start) return after.length
  const said = String(content).trim()
  const [at, alone] = [text.indexOf(said, start), after.lastIndexOf(said)]
  const isPlain = said !== '' && at >= 0 && text.slice(start, at).trim() === ''
  if (!isPlain || alone < start || !after.startsWith(text.slice(0, start))) return undefined
  const [rest, ending] = [text.slice(at + said.length), after.slice(alone + said.length)]
  let common = 0
  while (common < ending.length && rest[common] === ending[common]) common++
  const end = at + said.length + common
  return Math.max(beforeAdded(text, end, added), at + said.length)
}

/** A place in a text, or the beginning of the added token in which it is. */
function beforeAdded(text: string, place: number, added: readonly string[]): number {
  for (const token of added) {
    for (let inside = 1; inside < token.length; inside++) {
      if (text.startsWith(token, place - inside)) return place - inside
    }
  }
  return place
}

/** What a template raises of its own accord. */
class Refusal extends Error {}

function refuse(message: unknown): never {
  throw new Refusal(String(message))
}

const CONTEXT = createContext({ work: () => '' })
const WORK = new Script('work()')

/** Runs a template's program; one that does not end is stopped. */
function bounded<T>(place: string, work: () => T): T {
  try {
    CONTEXT['work'] = work
    const made = WORK.runInContext(CONTEXT, { timeout: MAX_RENDER_MS }) as T
    if (typeof made !== 'string' || made.length <= MAX_RENDER_UNITS) return made
  } catch (cause) {
    const { message, code } = cause as NodeJS.ErrnoException
    if (code === 'ERR_SCRIPT_EXECUTION_TIMEOUT') {
      throw new UserError(
        `${place}: the chat template has not ended after ${MAX_RENDER_MS / 1000} s: take another one`,
        { cause },
      )
    }
    const what = cause instanceof Refusal ? 'refuses the messages' : 'cannot be used'
    throw new UserError(`${place}: the chat template ${what}: ${excerpt(message)}`, { cause })
  }
  throw new UserError(
    `${place}: the chat template makes more than ${MAX_RENDER_UNITS / 2 ** 20} Mi characters of the ` +
      `messages: take another one`,
  )
}

const MONTHS =
  'January February March April May June July August September October November December'.split(' ')
const DAYS = 'Sunday Monday Tuesday Wednesday Thursday Friday Saturday'.split(' ')

/** Python's strftime in English, for the fields that templates use. */
export function strftime(date: Date, format: string): string {
  const two = (n: number) => String(n).padStart(2, '0')
  const [month, day] = [MONTHS[date.getUTCMonth()]!, DAYS[date.getUTCDay()]!]
  const fields: Readonly<Record<string, string>> = {
    Y: String(date.getUTCFullYear()),
    y: two(date.getUTCFullYear() % 100),
    m: two(date.getUTCMonth() + 1),
    d: two(date.getUTCDate()),
    '-d': String(date.getUTCDate()),
    B: month,
    b: month.slice(0, 3),
    A: day,
    a: day.slice(0, 3),
    H: two(date.getUTCHours()),
    M: two(date.getUTCMinutes()),
    S: two(date.getUTCSeconds()),
    '%': '%',
  }
  return format.replace(/%(-d|.)/gs, (whole, field: string) => fields[field] ?? whole)
}

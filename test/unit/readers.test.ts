// Readers of .txt, .jsonl, .json, .csv, .tsv and .parquet: rows and their places, compression and encodings, and
// files that are damaged, lie or are too large, each refused in one sentence.
// Alone: npx vitest run test/unit/readers.test.ts

import { tableFromArrays, tableToIPC } from '@uwdata/flechette'
import { parquetWriteBuffer } from 'hyparquet-writer'
import { readFileSync } from 'node:fs'
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { delimitedRows } from '../../src/data/delimited.ts'
import { readRecords } from '../../src/data/readers.ts'
import { folder } from '../helpers/small-tokenizer.ts'

const FILE = /^.*zo2-data-[^/]+\//

/** Values and places of a file with this name and content. */
async function read(name: string, data: string | Uint8Array) {
  const path = join(await folder({ [name]: data }), name)
  const records = []
  for await (const { values, place } of readRecords(path)) {
    records.push([values, place.replace(FILE, '')])
  }
  return records
}

const parquet = (options: Parameters<typeof parquetWriteBuffer>[0]) =>
  new Uint8Array(parquetWriteBuffer(options))

const ROWS = 2500
const COLUMNS = [
  { name: 'text', data: Array.from({ length: ROWS }, (_, i) => `row é ${i}`), type: 'STRING' },
  { name: 'label', data: Array.from({ length: ROWS }, (_, i) => BigInt(i % 3)), type: 'INT64' },
] as Parameters<typeof parquetWriteBuffer>[0]['columnData']

describe('reading a data file', () => {
  it('takes one object per line from .jsonl and skips blank lines', async () => {
    const text = '\ufeff{"text":"a\\nb","label":0}\r\n\n{"text":"é😀"}\n  \n{"text":""}'
    expect(await read('x.jsonl', text)).toEqual([
      [{ text: 'a\nb', label: 0 }, 'x.jsonl:1'],
      [{ text: 'é😀' }, 'x.jsonl:3'],
      [{ text: '' }, 'x.jsonl:5'],
    ])
  })

  it('joins lines and characters that straddle the reads of a .jsonl file', async () => {
    const long = '日本é😀'.repeat(60_000)
    const rows = [long, 'short', long.slice(1)]
    const records = await read('x.jsonl', rows.map((text) => JSON.stringify({ text })).join('\n'))
    expect(records.map(([values]) => (values as { text: string }).text)).toEqual(rows)
  })

  it('takes an array of objects from .json', async () => {
    expect(await read('x.JSON', '[{"text":"a"},\n{"text":"b"}]')).toEqual([
      [{ text: 'a' }, 'x.JSON: item 1'],
      [{ text: 'b' }, 'x.JSON: item 2'],
    ])
  })

  it('takes quoted fields, their line ends and a header from .csv', async () => {
    const text = '\ufefftext, label\r\n"a, ""b""",1\r\n"two\nlines",0\r\n\r\nlast,1\r\n'
    expect(await read('x.csv', text)).toEqual([
      [{ text: 'a, "b"', label: '1' }, 'x.csv:2'],
      [{ text: 'two\nlines', label: '0' }, 'x.csv:3'],
      [{ text: 'last', label: '1' }, 'x.csv:6'],
    ])
  })

  it('takes .csv as pandas does', async () => {
    const path = new URL('../fixtures/csv.json', import.meta.url)
    const cases = JSON.parse(readFileSync(path, 'utf8')) as { text: string; records: object[] }[]
    expect(cases.length).toBeGreaterThan(15)
    for (const { text, records } of cases) {
      const found = await read('x.csv', text)
      expect(
        found.map(([values]) => values),
        JSON.stringify(text),
      ).toEqual(records)
    }
  })

  it('takes rows of .csv that are cut at any place', async () => {
    const text = 'a,b\r\n"x""\r\ny",1\n\r\n"" ,"2"\r"z"\r\n,\n'
    const expected = [
      { fields: ['a', 'b'], line: 1 },
      { fields: ['x"\r\ny', '1'], line: 2 },
      { fields: [' ', '2'], line: 5 },
      { fields: ['z'], line: 6 },
      { fields: ['', ''], line: 7 },
    ]
    for (const size of [1, 2, 3, 5, 100]) {
      async function* chunks() {
        for (let i = 0; i < text.length; i += size) yield text.slice(i, i + size)
      }
      const rows = []
      const format = { delimiter: ',', quotes: true }
      for await (const row of delimitedRows('x.csv', chunks(), format)) rows.push(row)
      expect(rows, `chunks of ${size}`).toEqual(expected)
    }
  })

  it('leaves commas at the end of lines out', async () => {
    expect(await read('x.csv', 'text,label\na,1,\nb,0,,\n')).toEqual([
      [{ text: 'a', label: '1' }, 'x.csv:2'],
      [{ text: 'b', label: '0' }, 'x.csv:3'],
    ])
  })

  it('takes quotes in .tsv as they are', async () => {
    expect(await read('x.tsv', 'text\tlabel\n"open quote\t1\nit "is" so\t0\n')).toEqual([
      [{ text: '"open quote', label: '1' }, 'x.tsv:2'],
      [{ text: 'it "is" so', label: '0' }, 'x.tsv:3'],
    ])
  })

  it('takes a .txt file as one text, with the line ends that prepare gives it', async () => {
    expect(await read('x.txt', 'a\n\nb\n')).toEqual([[{ text: 'a\n\nb\n' }, 'x.txt']])
    expect(await read('x.txt', 'a\r\n\r\nb\rc')).toEqual([[{ text: 'a\n\nb\nc' }, 'x.txt']])
  })

  it('takes integers that numbers cannot hold from columns that nobody reads', async () => {
    const ids = [1n, 2n ** 60n + 1n]
    const columnData = [
      { name: 'text', data: ['a', 'b'], type: 'STRING' },
      { name: 'id', data: ids, type: 'INT64' },
    ] as typeof COLUMNS
    const rows = [
      [{ text: 'a', id: 1 }, 'row 1'],
      [{ text: 'b', id: ids[1] }, 'row 2'],
    ]
    const arrow = tableToIPC(tableFromArrays({ text: ['a', 'b'], id: BigInt64Array.from(ids) }), {})
    const files = { 'x.parquet': parquet({ columnData }), 'x.arrow': arrow! }
    for (const [name, data] of Object.entries(files)) {
      const found = (await read(name, data)).map(([values, place]) => {
        return [{ ...(values as object) }, (place as string).replace(`${name}: `, '')]
      })
      expect(found, name).toEqual(rows)
    }
  })

  it.each(['SNAPPY', 'UNCOMPRESSED'] as const)(
    'takes rows and integers from .parquet with %s pages',
    async (codec) => {
      const data = parquet({ columnData: COLUMNS, codec, rowGroupSize: 1000 })
      const records = await read('x.parquet', data)
      expect(records).toHaveLength(ROWS)
      expect(records[0]).toEqual([{ text: 'row é 0', label: 0 }, 'x.parquet: row 1'])
      expect(records[ROWS - 1]).toEqual([
        { text: `row é ${ROWS - 1}`, label: (ROWS - 1) % 3 },
        `x.parquet: row ${ROWS}`,
      ])
    },
  )

  it('stops reading when its consumer stops', async () => {
    const dir = await folder({
      'x.csv': 'text\n' + 'some text\n'.repeat(100_000),
      'x.jsonl': '{"text":"some text"}\n'.repeat(100_000),
    })
    for (const name of ['x.csv', 'x.jsonl']) {
      for await (const { values } of readRecords(join(dir, name))) {
        expect(values).toEqual({ text: 'some text' })
        break
      }
    }
  })
})

describe('a bad data file', () => {
  const damaged = parquet({ columnData: COLUMNS })
  damaged.fill(0xff, 100, 400)
  const cut = parquet({ columnData: COLUMNS }).slice(0, -20)

  it.each<[string, string, string | Uint8Array, RegExp]>([
    [
      'an unknown extension',
      'x.yaml',
      '',
      /x.yaml: .* one of .jsonl, .json, .csv, .tsv, .txt, .pa/,
    ],
    ['no extension', 'train', '', /must end in one of/],
    ['bad JSON', 'x.jsonl', '{"a":1}\n\n{"a":', /x.jsonl:3: not valid JSON: Unexpected end/],
    ['a row that is no object', 'x.jsonl', '{"a":1}\n[1]', /x.jsonl:2: expected a JSON object, f/],
    ['an array with a number', 'x.json', '[{"a":1}, 3]', /x.json: item 2: expected a JSON object/],
    ['an object', 'x.json', '{"a":1}', /x.json must hold a JSON array of objects.* name .* .jsonl/],
    [
      'JSON lines',
      'x.json',
      '\n{"a":1}\n{"a":2}\n',
      /x.json:3: not valid JSON: .*; name a file with one object on each line .jsonl$/,
    ],
    ['an array', 'x.jsonl', '[{"a":1}]', /x.jsonl:1: .* name a file that is one JSON array .json$/],
    [
      'pretty JSON',
      'x.jsonl',
      '{\n "a": 1\n}\n',
      /x.jsonl:1: not valid JSON.*; name a file that is one JSON array .json$/,
    ],
    [
      'a pretty array',
      'x.jsonl',
      '[\n{"a":1}\n]\n',
      /x.jsonl:1: not valid JSON.*; name a file that is one JSON array .json$/,
    ],
    ['a raw line end', 'x.jsonl', '{"a":"\u001b[31m\u0007', /x.jsonl:1: not valid JSON: [ -~]+$/],
    ['deep nesting', 'x.jsonl', '{"a":' + '['.repeat(20_000), /x.jsonl:1: .* more than 100 deep$/],
    ['deep nesting', 'x.json', '['.repeat(20_000), /x.json: not usable as JSON: nested more than/],
    ['bad JSON on line 2', 'x.json', '[{"a":1},\n{"a":1,}]', /x.json:2: not valid JSON/],
    [
      'a stray word',
      'x.json',
      '[{"a":1},\n{"b":2},\nc\n]',
      /^[^\n]*x.json\S*: not valid JSON: [^\n]+$/,
    ],
    [
      'missing fields',
      'x.csv',
      'a,b\n1,2\n\n3\n',
      /x.csv:4: expected 2 fields, .* \(a, b\), .* 1$/,
    ],
    ['further fields', 'x.csv', 'a,b\n1,2,,3\n', /x.csv:2: expected 2 fields, .* but found 4$/],
    [
      'an open quote',
      'x.csv',
      'a,b\r\n"x\ny",2\r\n\r\n3,"4\n5,6\n',
      /x.csv:5: the quote that opens on this line is never closed/,
    ],
    ['a column twice', 'x.csv', 'a,b,a\n1,2,3\n', /x.csv:1: .* names the column "a" twice/],
    [
      '20,000 columns and a field too few',
      'x.csv',
      `${Array.from({ length: 20_000 }, (_, i) => `c${i}`).join(',')}\n1\n`,
      /^.{0,300}\(c0, c1, .* and 19992 more\), but found 1$/,
    ],
    ['nothing in it', 'x.jsonl', '', /x.jsonl holds no records/],
    ['only blanks', 'x.txt', ' \n', /x.txt holds no records/],
    ['only blanks', 'x.json', ' \n', /x.json holds no records/],
    ['an empty array', 'x.json', '[]', /x.json holds no records/],
    ['only a header', 'x.csv', 'a,b\n', /x.csv holds no records/],
    [
      'no UTF-8',
      'x.jsonl',
      Uint8Array.of(0x7b, 0xff),
      /x.jsonl is not .* \(byte 0xff at offset 1\)/,
    ],
    ['no UTF-8', 'x.csv', Uint8Array.of(0x61, 0x0a, 0xff, 0x0a), /x.csv is not .* at offset 2\)/],
    ['no UTF-8', 'x.txt', Uint8Array.of(0xff), /x.txt is not UTF-8 text \(byte 0xff at offset 0\)/],
    ['half a character', 'x.jsonl', Uint8Array.of(0xc3), /x.jsonl is not .* 0xc3 at offset 0\)/],
    [
      'a cut character',
      'x.txt',
      Uint8Array.of(0xe6, 0x97, 0x61),
      /x.txt is not .* 0xe6 at offset 0/,
    ],
    [
      'a wrong byte behind the first read',
      'x.csv',
      Buffer.concat([Buffer.from('a\n' + 'é'.repeat(131_071)), Buffer.from([0xc3, 0x28])]),
      /x.csv is not UTF-8 text \(byte 0xc3 at offset 262144\)/,
    ],
    [
      'a character that two reads would have shared',
      'x.csv',
      Buffer.concat([Buffer.from('a'.repeat(2 ** 18 - 1)), Buffer.from([0xe6, 0x28])]),
      /x.csv is not UTF-8 text \(byte 0xe6 at offset 262143\)/,
    ],
    [
      'UTF-16',
      'x.csv',
      Buffer.from('\ufefftext\na\n', 'utf16le'),
      /x.csv is not UTF-8 text \(byte 0xff at offset 0\): it looks like UTF-16: convert it/,
    ],
    ['another format', 'x.parquet', 'text', /x.parquet as parquet/],
    ['no bytes', 'x.parquet', '', /x.parquet as parquet/],
    ['damaged pages', 'x.parquet', damaged, /x.parquet as parquet/],
    ['a cut end', 'x.parquet', cut, /x.parquet as parquet/],
  ])('with %s (%s) is refused in one sentence', async (_, name, data, message) => {
    const result = read(name, data)
    await expect(result).rejects.toThrow(message)
    await expect(result).rejects.toHaveProperty('name', 'UserError')
  })

  it('is refused where it is missing or a folder', async () => {
    const dir = await folder({})
    const first = (path: string) => readRecords(path).next()
    await expect(first(join(dir, 'none.csv'))).rejects.toThrow(/cannot read .*none.csv: ENOENT/)
    await mkdir(join(dir, 'folder.csv'))
    await expect(first(join(dir, 'folder.csv'))).rejects.toThrow(/must be a regular file/)
  })

  it('never makes the parquet reader crash, whichever byte is wrong', async () => {
    const columnData = COLUMNS.map(({ data, ...column }) => ({
      ...column,
      data: data.slice(0, 40),
    }))
    const good = parquet({ columnData } as Parameters<typeof parquetWriteBuffer>[0])
    for (let i = 0; i < 200; i++) {
      const bad = good.slice()
      bad[(i * 131) % bad.length]! ^= 1 << (i % 8)
      const outcome = await read('x.parquet', bad).catch((error: Error) => error.name)
      if (!Array.isArray(outcome)) expect(outcome).toBe('UserError')
    }
  })
})

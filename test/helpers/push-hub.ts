// A hub on 127.0.0.1 that takes uploads as the real one does: repository creation, preupload, LFS batch
// and storage, one commit. It checks hashes, keeps what was committed, and takes a script of faults.

import { createHash } from 'node:crypto'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'

export type PushFault = number | 'drop'

export interface PushHub {
  readonly endpoint: string
  /** Repository to the files of its last commit. */
  readonly repos: Map<string, { private: boolean; title: string; files: Map<string, Buffer> }>
  /** What the next request whose path has this in it gets instead of an answer. */
  readonly faults: Map<string, PushFault[]>
  readonly requests: string[]
  /** Large files by their SHA-256. */
  readonly stored: Map<string, Buffer>
  close(): Promise<void>
}

/** Files of at least so many bytes are large. */
const LARGE_BYTES = 2000

interface CommitLine {
  readonly key: string
  readonly value: { summary?: string; path?: string; content?: string; oid?: string }
}

export async function startPushHub(token: string): Promise<PushHub> {
  const repos: PushHub['repos'] = new Map()
  const faults: PushHub['faults'] = new Map()
  const requests: string[] = []
  const stored = new Map<string, Buffer>()
  let endpoint = ''

  const answer = (path: string, body: Buffer): [status: number, reply: unknown] => {
    const json = () => JSON.parse(body.toString()) as Record<string, unknown>
    const upload = /^\/storage\/(\w+)$/.exec(path)
    if (upload) {
      if (createHash('sha256').update(body).digest('hex') !== upload[1]) return [400, {}]
      stored.set(upload[1], body)
      return [200, {}]
    }
    if (path === '/api/repos/create') {
      const { organization, name, visibility } = json()
      const id = `${String(organization)}/${String(name)}`
      repos.set(id, { private: visibility === 'private', title: '', files: new Map() })
      return [200, { url: `${endpoint}/${id}`, id }]
    }
    const [, id = '', what = ''] =
      /^\/(?:api\/models\/)?([\w.-]+\/[\w-]+)(?:\.git)?\/?(.*)$/.exec(path) ?? []
    const repo = repos.get(id)
    if (!repo) return [404, { error: 'RepoNotFound' }]
    if (what.startsWith('preupload')) {
      const files = json()['files'] as { path: string; size: number }[]
      const mode = (size: number) => (size < LARGE_BYTES ? 'regular' : 'lfs')
      return [200, { files: files.map((f) => ({ path: f.path, uploadMode: mode(f.size) })) }]
    }
    if (what.startsWith('info/lfs')) {
      const objects = (json()['objects'] as { oid: string; size: number }[]).map((object) => ({
        ...object,
        ...(!stored.has(object.oid) && {
          actions: { upload: { href: `${endpoint}/storage/${object.oid}` } },
        }),
      }))
      return [200, { transfer: 'basic', objects }]
    }
    if (what.startsWith('commit')) {
      const lines = body
        .toString()
        .trim()
        .split('\n')
        .map((line) => JSON.parse(line) as CommitLine)
      const files = new Map<string, Buffer>()
      for (const { key, value } of lines) {
        if (key === 'header') repo.title = value.summary!
        else if (key === 'file') files.set(value.path!, Buffer.from(value.content!, 'base64'))
        else files.set(value.path!, stored.get(value.oid!)!)
      }
      repo.files = files
      const oid = 'c'.repeat(40)
      return [
        200,
        {
          success: true,
          commitOid: oid,
          commitUrl: `${endpoint}/${id}/commit/${oid}`,
          hookOutput: '',
        },
      ]
    }
    return [
      200,
      { _id: 'x', id, sha: 'a'.repeat(40), lastModified: '2024-01-01', private: repo.private },
    ]
  }

  const handle = (req: IncomingMessage, res: ServerResponse, body: Buffer) => {
    const path = req.url!.split('?')[0]!
    requests.push(`${req.method} ${path}`)
    const key = [...faults.keys()].find((part) => path.includes(part) && faults.get(part)!.length)
    const fault = key === undefined ? undefined : faults.get(key)!.shift()
    if (fault === 'drop') return void req.socket.destroy()
    const allowed = path.startsWith('/storage') || req.headers.authorization === `Bearer ${token}`
    const [status, reply] = fault ? [fault, {}] : allowed ? answer(path, body) : [401, {}]
    res.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(reply))
  }
  const server = createServer((req, res) => {
    const parts: Buffer[] = []
    req.on('data', (part: Buffer) => parts.push(part))
    req.on('end', () => handle(req, res, Buffer.concat(parts)))
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  endpoint = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  return {
    endpoint,
    repos,
    faults,
    requests,
    stored,
    close: () =>
      new Promise((resolve) => {
        server.closeAllConnections()
        server.close(() => resolve())
      }),
  }
}

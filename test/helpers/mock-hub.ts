// A model hub on 127.0.0.1 that answers as the real one does: model info, paged tree listing with
// LFS and xet entries, `resolve` that redirects small files within the hub and large ones to a
// storage host of another origin, ETag / X-Repo-Commit / X-Linked-* / X-Error-Code headers, Range,
// HEAD, gated and private repositories. It records every request and takes a script of faults.
import { createHash } from 'node:crypto'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'

export interface MockFile {
  bytes: Buffer
  /** Stored as a large file: named by its SHA-256 and served by the storage host. */
  lfs?: boolean
  /** Size that the listing claims, where it lies. */
  listedBytes?: number
}

export interface MockRepo {
  /** Revision name to commit. */
  refs: Record<string, string>
  /** Commit to files by name. */
  commits: Record<string, Record<string, MockFile>>
  gated?: boolean
  /** The only token that may read it. */
  token?: string
}

/** What happens to the next transfer of a file (or, under the key 'api', to the next API call). */
export type Fault =
  /** Breaks the connection once `when` holds, so that a test can let the client read first. */
  | { kind: 'drop'; afterBytes: number; when: () => boolean }
  | { kind: 'hang'; afterBytes: number }
  | { kind: 'status'; status: number }
  | { kind: 'corrupt' }
  | { kind: 'short'; bytes: number }
  | { kind: 'ignore-range' }
  | { kind: 'slow'; waitMs: number }

export interface MockRequest {
  host: 'hub' | 'storage'
  method: string
  path: string
  authorization: string | undefined
  range: string | undefined
}

export interface MockHub {
  endpoint: string
  requests: MockRequest[]
  /** Content bytes written per file name, over all requests. */
  served: Map<string, number>
  faults: Map<string, Fault[]>
  /** Requests for the content of a file, at whichever host serves it. */
  transfers(file: string): MockRequest[]
  close(): Promise<void>
}

export const sha256 = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex')

export const gitOid = (bytes: Buffer): string =>
  createHash('sha1').update(`blob ${bytes.length}\0`).update(bytes).digest('hex')

/** The name of a file's blob in the cache. */
export const blobName = (file: MockFile): string =>
  file.lfs ? sha256(file.bytes) : gitOid(file.bytes)

const PAGE_ENTRIES = 4

export async function startMockHub(repos: Record<string, MockRepo>): Promise<MockHub> {
  const requests: MockRequest[] = []
  const served = new Map<string, number>()
  const faults = new Map<string, Fault[]>()
  const nextFault = (key: string): Fault | undefined => faults.get(key)?.shift()

  const serve = (file: string, bytes: Buffer, req: IncomingMessage, res: ServerResponse): void =>
    sendContent(bytes, nextFault(file), req, res, (sent) =>
      served.set(file, (served.get(file) ?? 0) + sent),
    )

  const storage = await listen((req, res) => {
    record('storage', req, requests)
    const [, id = '', name = '', commit = '', ...path] = pathParts(req)
    const file = path.join('/')
    serve(file, repos[`${id}/${name}`]!.commits[commit]![file]!.bytes, req, res)
  })

  const hub = await listen((req, res) => {
    record('hub', req, requests)
    const parts = pathParts(req)
    if (parts[1] === 'api' && /^(models|datasets)$/.test(parts[2]!)) return api(parts, req, res)
    const isDirect = parts[1] === 'api'
    const [owner = '', name = '', , revision = '', ...path] = parts.slice(isDirect ? 4 : 1)
    const file = path.join('/')
    const found = lookUp(repos, `${owner}/${name}`, revision, req, res)
    if (found === null) return
    const entry = found.files[file]
    if (entry === undefined) return refuse(res, 404, 'EntryNotFound')
    res.setHeader('x-repo-commit', found.commit)
    res.setHeader('etag', `"${blobName(entry)}"`)
    if (entry.lfs) return toStorage(`/${owner}/${name}/${found.commit}/${file}`, entry, req, res)
    if (isDirect) return serve(file, entry.bytes, req, res)
    res.setHeader(
      'location',
      `/api/resolve-cache/models/${owner}/${name}/x/${found.commit}/${file}`,
    )
    res.writeHead(307).end()
  })

  function toStorage(
    path: string,
    entry: MockFile,
    req: IncomingMessage,
    res: ServerResponse,
  ): void {
    res.setHeader('x-linked-size', entry.bytes.length)
    res.setHeader('x-linked-etag', `"${sha256(entry.bytes)}"`)
    res.setHeader('x-xet-hash', 'ab'.repeat(32))
    const links = `<${hub.url}/xet-token>; rel="xet-auth", <${hub.url}/xet>; rel="xet-reconstruction-info"`
    res.setHeader('link', links)
    if (req.headers.accept?.includes('application/vnd.xet-fileinfo+json')) {
      res.writeHead(200, { 'content-type': 'application/vnd.xet-fileinfo+json' }).end('{}')
      return
    }
    res.writeHead(302, { location: `${storage.url}${path}` }).end()
  }

  function api(parts: string[], req: IncomingMessage, res: ServerResponse): void {
    const fault = nextFault('api')
    if (fault?.kind === 'status') return refuse(res, fault.status)
    const [, , , owner = '', name = '', what, revision = '', ...folder] = parts
    const found = lookUp(repos, `${owner}/${name}`, revision, req, res)
    if (found === null) return
    res.setHeader('content-type', 'application/json')
    if (what === 'revision') {
      const info = {
        _id: 'x',
        id: `${owner}/${name}`,
        sha: found.commit,
        lastModified: '2024-01-01',
      }
      res.end(JSON.stringify(info))
      return
    }
    const from = Number(new URL(req.url!, hub.url).searchParams.get('cursor') ?? 0)
    const entries = Object.entries(found.files)
      .filter(([path]) => path.startsWith(folder.join('/')))
      .map(([path, file]) => treeEntry(path, file))
    entries.push({ type: 'directory', path: 'onnx', size: 0, oid: '0'.repeat(40) })
    if (from + PAGE_ENTRIES < entries.length) {
      const next = `${hub.url}${req.url!.split('&cursor')[0]}&cursor=${from + PAGE_ENTRIES}`
      res.setHeader('link', `<${next}>; rel="next"`)
    }
    res.end(JSON.stringify(entries.slice(from, from + PAGE_ENTRIES)))
  }

  return {
    endpoint: hub.url,
    requests,
    served,
    faults,
    transfers: (file) =>
      requests.filter(
        ({ host, path }) =>
          path.endsWith(`/${file}`) &&
          (host === 'storage' || path.startsWith('/api/resolve-cache')),
      ),
    close: async () => {
      await Promise.all([hub.close(), storage.close()])
    },
  }
}

function treeEntry(path: string, file: MockFile): Record<string, unknown> {
  const size = file.listedBytes ?? file.bytes.length
  const entry = { type: 'file', path, size, oid: gitOid(file.bytes) }
  if (!file.lfs) return entry
  const lfs = { oid: sha256(file.bytes), size, pointerSize: 134 }
  return { ...entry, lfs, xetHash: 'ab'.repeat(32) }
}

function lookUp(
  repos: Record<string, MockRepo>,
  id: string,
  revision: string,
  req: IncomingMessage,
  res: ServerResponse,
): { commit: string; files: Record<string, MockFile> } | null {
  const repo = repos[id]
  const token = req.headers.authorization?.replace('Bearer ', '')
  const isContent = !/^\/api\/(models|datasets)\//.test(req.url!)
  const deny = (status: number, code: string): null => {
    refuse(res, status, code)
    return null
  }
  if (repo === undefined) return deny(token === undefined ? 401 : 404, 'RepoNotFound')
  if (repo.token !== undefined && token !== repo.token) {
    // Everybody may list a gated repository; its files are what the licence is about.
    if (!repo.gated) return deny(401, 'RepoNotFound')
    if (isContent) return deny(token === undefined ? 401 : 403, 'GatedRepo')
  }
  const commit = repo.commits[revision] === undefined ? repo.refs[revision] : revision
  if (commit === undefined) return deny(404, 'RevisionNotFound')
  return { commit, files: repo.commits[commit]! }
}

function sendContent(
  bytes: Buffer,
  fault: Fault | undefined,
  req: IncomingMessage,
  res: ServerResponse,
  onSent: (bytes: number) => void,
): void {
  if (fault?.kind === 'status') return refuse(res, fault.status)
  const content = Buffer.from(fault?.kind === 'short' ? bytes.subarray(0, fault.bytes) : bytes)
  if (fault?.kind === 'corrupt') content[content.length >> 1]! ^= 1
  const range =
    fault?.kind === 'ignore-range' ? null : /^bytes=(\d+)-/.exec(req.headers.range ?? '')
  const first = range === null ? 0 : Number(range[1])
  if (range !== null && first >= content.length) return refuse(res, 416)
  if (range !== null) {
    res.setHeader('content-range', `bytes ${first}-${content.length - 1}/${content.length}`)
  }
  res.setHeader('content-length', content.length - first)
  res.writeHead(range === null ? 200 : 206)
  const isCut = fault?.kind === 'drop' || fault?.kind === 'hang'
  const body = req.method === 'HEAD' ? Buffer.alloc(0) : content.subarray(first)
  const sent = isCut ? body.subarray(0, fault.afterBytes) : body
  onSent(sent.length)
  if (!isCut) return void setTimeout(() => res.end(sent), fault?.kind === 'slow' ? fault.waitMs : 0)
  res.write(sent)
  if (fault.kind === 'hang') return
  const timer = setInterval(() => {
    if (!fault.when()) return
    clearInterval(timer)
    res.destroy()
  }, 10)
  res.once('close', () => clearInterval(timer))
}

function refuse(res: ServerResponse, status: number, code?: string): void {
  if (code !== undefined) res.setHeader('x-error-code', code)
  res.writeHead(status, { 'content-type': 'application/json' })
  res.end(JSON.stringify({ error: code ?? `status ${status}` }))
}

function pathParts(req: IncomingMessage): string[] {
  const path = req.url!.split('?')[0]!.replace(/^\/datasets\//, '/')
  return path.split('/').map(decodeURIComponent)
}

function record(host: 'hub' | 'storage', req: IncomingMessage, requests: MockRequest[]): void {
  const { authorization, range } = req.headers
  requests.push({ host, method: req.method!, path: req.url!, authorization, range })
}

async function listen(
  handler: (req: IncomingMessage, res: ServerResponse) => void,
): Promise<{ url: string; close: () => Promise<void> }> {
  const server: Server = createServer(handler)
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  const close = (): Promise<void> =>
    new Promise((resolve) => {
      server.close(() => resolve())
      server.closeAllConnections()
    })
  return { url: `http://127.0.0.1:${port}`, close }
}

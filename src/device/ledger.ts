// Every device byte by category, now and at its peak. The devices charge and release; `zo2 plan`
// predicts the same numbers; after close() everything is back to zero.

/** What device memory is used for; the rows of every memory table. */
const CATEGORIES = ['slots', 'staging', 'activations', 'scratch', 'resident'] as const
export type Category = (typeof CATEGORIES)[number]

export type ByteTable = Record<Category, number>

export interface Ledger {
  charge(category: Category, bytes: number): void
  release(category: Category, bytes: number): void
  /** Bytes held at this moment, by category. */
  readonly now: Readonly<ByteTable>
  /** Sum over categories at this moment. */
  total(): number
  /** Largest total so far, and the table at that moment. */
  peak(): { totalBytes: number; bytes: ByteTable }
}

const emptyTable = (): ByteTable => Object.fromEntries(CATEGORIES.map((c) => [c, 0])) as ByteTable

/** An empty ledger. Its `release` throws a RangeError for more bytes than are held. */
export function createLedger(): Ledger {
  const now = emptyTable()
  let peakBytes = 0
  let peakTable = emptyTable()
  const total = () => CATEGORIES.reduce((sum, c) => sum + now[c], 0)
  return {
    now,
    total,
    charge(category, bytes) {
      now[category] += bytes
      if (total() > peakBytes) {
        peakBytes = total()
        peakTable = { ...now }
      }
    },
    release(category, bytes) {
      if (bytes > now[category]) {
        throw new RangeError(`ledger: releasing ${bytes} of ${now[category]} ${category} bytes`)
      }
      now[category] -= bytes
    },
    peak: () => ({ totalBytes: peakBytes, bytes: { ...peakTable } }),
  }
}

// `zo2` on a GPU that goes away in mid-run; the half inside of it is lose-device.mjs.

const PRELOAD = new URL('lose-device.mjs', import.meta.url).href

/** When a GPU goes away, and how. */
export interface Loss {
  /** What must stand on stderr before; empty: from the start on. */
  readonly after: string
  /** Number of the submit after that, from 1. */
  readonly submit: number
  /** Dawn drops the device and says so at once, or the driver hangs and nothing ever answers. */
  readonly how: 'destroy' | 'silent'
}

/** The environment for such a `zo2`. */
export const losing = ({ after, submit, how }: Loss): Record<string, string> => ({
  NODE_OPTIONS: `--import ${PRELOAD}`,
  ZO2_LOSE_AFTER: after,
  ZO2_LOSE_SUBMIT: String(submit),
  ZO2_LOSE_HOW: how,
})

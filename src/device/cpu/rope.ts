// Rotary position embeddings on the cpu device: a plain loop, since it is one multiplication and addition for each
// element beside the hundreds of a product.

/** Rotates rows [n, cols] in place; `angles` [n, d] has the cosines and then the sines of each row's d/2 pairs. */
export function rotate(
  rows: Float32Array,
  angles: Float32Array,
  cols: number,
  headSize: number,
): void {
  const count = rows.length / cols
  const d = angles.length / count
  const half = d / 2
  for (let row = 0; row < count; row++) {
    const cos = row * d
    const sin = cos + half
    for (let head = row * cols; head < (row + 1) * cols; head += headSize) {
      for (let i = 0; i < half; i++) {
        const a = head + i
        const b = a + half
        const x = rows[a]!
        const z = rows[b]!
        const c = angles[cos + i]!
        const s = angles[sin + i]!
        rows[a] = x * c - z * s
        rows[b] = z * c + x * s
      }
    }
  }
}

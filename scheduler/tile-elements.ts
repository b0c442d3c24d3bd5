// How large a compute tile is: a file of its own, so that tests can have small ones.

/** Elements of a tile at most, unless a single row has more: 9 MiB of f32, OPT-125m's largest matrix. */
export const TILE_ELEMENTS = 768 * 3072

/** The random numbers of NumPy's `default_rng(seed)`: PCG64 (XSL-RR), seeded by its SeedSequence. */

const MASK_32 = 0xffffffffn;
const MASK_64 = (1n << 64n) - 1n;
const MASK_128 = (1n << 128n) - 1n;
const MULTIPLIER = 0x2360ed051fc65da44385df649fccf645n;
const POOL = 4;

/** Returns a function that gives numbers from 0 to below 1 with 53 random bits. */
export function generator(seed: number): () => number {
  const [a, b, c, d] = seedState(seed);
  const increment = ((((c << 64n) | d) << 1n) | 1n) & MASK_128;
  const step = (state: bigint) => (state * MULTIPLIER + increment) & MASK_128;
  let state = step((step(0n) + ((a << 64n) | b)) & MASK_128);
  return () => {
    state = step(state);
    const rotation = state >> 122n;
    const mixed = ((state >> 64n) ^ state) & MASK_64;
    const output = ((mixed >> rotation) | (mixed << ((64n - rotation) & 63n))) & MASK_64;
    return Number(output >> 11n) / 2 ** 53;
  };
}

/** Four numbers of 64 bits from a seed: NumPy's `SeedSequence(seed).generate_state(4, uint64)`. */
function seedState(seed: number): bigint[] {
  const pool = mixedPool(wordsOf(seed));
  let constant = 0x8b51f9dd;
  const words = Array.from({ length: 8 }, (_, index) => {
    const value = (pool[index % POOL] ^ constant) >>> 0;
    constant = Math.imul(constant, 0x58f38ded) >>> 0;
    const product = Math.imul(value, constant) >>> 0;
    return BigInt((product ^ (product >>> 16)) >>> 0) & MASK_32;
  });
  return [0, 2, 4, 6].map((index) => words[index] | (words[index + 1] << 32n));
}

/** The seed's 32-bit words, the lowest first. */
function wordsOf(seed: number): number[] {
  const words = [seed % 2 ** 32];
  for (let rest = Math.floor(seed / 2 ** 32); rest > 0; rest = Math.floor(rest / 2 ** 32)) words.push(rest % 2 ** 32);
  return words;
}

function mixedPool(entropy: readonly number[]): number[] {
  let constant = 0x43b0d7e5;
  const hashed = (word: number) => {
    const value = (word ^ constant) >>> 0;
    constant = Math.imul(constant, 0x931e8875) >>> 0;
    const product = Math.imul(value, constant) >>> 0;
    return (product ^ (product >>> 16)) >>> 0;
  };
  const mixed = (x: number, y: number) => {
    const result = (Math.imul(0xca01f9dd, x) - Math.imul(0x4973f715, y)) >>> 0;
    return (result ^ (result >>> 16)) >>> 0;
  };
  const pool = Array.from({ length: POOL }, (_, index) => hashed(entropy[index] ?? 0));
  for (let from = 0; from < POOL; from++) {
    for (let to = 0; to < POOL; to++) if (from !== to) pool[to] = mixed(pool[to], hashed(pool[from]));
  }
  for (const word of entropy.slice(POOL)) {
    for (let to = 0; to < POOL; to++) pool[to] = mixed(pool[to], hashed(word));
  }
  return pool;
}

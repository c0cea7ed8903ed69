/** Arrays of the graphs: types of elements by their names in ONNX Runtime, and arithmetic in the rounding of Python. */

/** An input or output of a graph. */
export type GraphArray =
  | { type: "float32"; data: Float32Array; dims: readonly number[] }
  | { type: "float16"; data: Uint16Array; dims: readonly number[] }
  | { type: "int64"; data: BigInt64Array; dims: readonly number[] }
  | { type: "int32"; data: Int32Array; dims: readonly number[] }
  | { type: "bool"; data: Uint8Array; dims: readonly number[] };

export type Feeds = Record<string, GraphArray>;

export function float32(data: Float32Array, dims: readonly number[]): GraphArray {
  return { type: "float32", data, dims };
}

export function int64(values: ArrayLike<number>, dims: readonly number[]): GraphArray {
  const data = new BigInt64Array(values.length);
  for (let index = 0; index < values.length; index++) data[index] = BigInt(values[index]);
  return { type: "int64", data, dims };
}

export function int32(values: ArrayLike<number>, dims: readonly number[]): GraphArray {
  return { type: "int32", data: Int32Array.from(values), dims };
}

/** Rounds halves to the even number, as Python's `round` does. */
export function roundHalfEven(value: number): number {
  const floor = Math.floor(value);
  const rest = value - floor;
  if (rest !== 0.5) return Math.round(value);
  return floor % 2 === 0 ? floor : floor + 1;
}

export function product(values: readonly number[]): number {
  return values.reduce((result, value) => result * value, 1);
}

/** The numbers from `start` to below `end`. */
export function range(start: number, end: number): number[] {
  return Array.from({ length: Math.max(0, end - start) }, (_, index) => start + index);
}

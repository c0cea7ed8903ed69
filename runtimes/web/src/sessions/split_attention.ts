/**
 * Full attention in parts of its queries, for WebAssembly: rewrites a model before ONNX Runtime opens it.
 *
 * In 32 bits, ONNX Runtime's estimate of the work of one head, 2 · head_dim · queries · keys, overflows from 3,664 patches
 * on, with heads of 80. Parts also bound the scores that are in memory at once. Every row is computed as in one part.
 *
 * Knows as much of Protocol Buffers as that takes; field numbers are those of `onnx.proto`.
 */

import { range } from "../common/arrays.js";

/** Parts of the queries: enough for 10,362 patches with heads of 80. */
const PARTS = 8;
const MODEL_GRAPH = 7;
const GRAPH_NODE = 1;
const NODE = { input: 1, output: 2, name: 3, type: 4, attribute: 5 };
const ATTRIBUTE = { name: 1, int: 3, ints: 8, type: 20 };
const TYPE = { int: 2, ints: 7 };
const WIRE = { varint: 0, fixed64: 1, delimited: 2, fixed32: 5 };

interface Field {
  number: number;
  /** All of the field, its key too. */
  whole: Uint8Array;
  /** What a delimited field holds. */
  content: Uint8Array;
}

/** Returns the model with unmasked `MultiHeadAttention` in parts; the same bytes if there is none. */
export function splitAttention(model: Uint8Array): Uint8Array {
  return replaced(model, MODEL_GRAPH, (graph) => {
    const split = replaced(graph, GRAPH_NODE, (node) => parts(node)?.map((part) => field(GRAPH_NODE, part)) ?? null);
    return split === graph ? null : [field(MODEL_GRAPH, split)];
  });
}

/** A message with other fields in place of those of a number, where `replace` returns some. */
function replaced(
  message: Uint8Array,
  number: number,
  replace: (content: Uint8Array) => Uint8Array[] | null,
): Uint8Array {
  let changed = false;
  const fields = [...fieldsOf(message)].flatMap((found) => {
    const others = found.number === number ? replace(found.content) : null;
    changed ||= others !== null;
    return others ?? [found.whole];
  });
  return changed ? joined(fields) : message;
}

/** The nodes that compute what an unmasked `MultiHeadAttention` does; null for any other node. */
function parts(node: Uint8Array): Uint8Array[] | null {
  const fields = [...fieldsOf(node)];
  const texts = (number: number) =>
    fields.filter((found) => found.number === number).map(({ content }) => text(content));
  const [query, ...others] = texts(NODE.input);
  if (texts(NODE.type)[0] !== "MultiHeadAttention" || others.length !== 2) return null;
  const [output] = texts(NODE.output);
  const own = (name: string) => `${output}/${name}`;
  const bounds = range(0, PARTS + 1).map((index) => own(`bound_${index}`));
  const rest = fields.filter(({ number }) => ![NODE.input, NODE.output, NODE.name].includes(number));
  const attention = (index: number) =>
    joined([
      ...[own(`queries_${index}`), ...others].map((name) => field(NODE.input, encoded(name))),
      field(NODE.output, encoded(own(`part_${index}`))),
      field(NODE.name, encoded(own(`attention_${index}`))),
      ...rest.map(({ whole }) => whole),
    ]);
  return [
    operator("Constant", [], [own("numbers")], { value_ints: range(0, PARTS + 1) }),
    operator("Constant", [], [own("count")], { value_ints: [PARTS] }),
    operator("Constant", [], [own("axis")], { value_ints: [1] }),
    operator("Shape", [query], [own("length")], { start: 1, end: 2 }),
    operator("Mul", [own("length"), own("numbers")], [own("multiples")], {}),
    operator("Div", [own("multiples"), own("count")], [own("bounds")], {}),
    operator("Split", [own("bounds")], bounds, { axis: 0, num_outputs: PARTS + 1 }),
    ...range(0, PARTS).flatMap((index) => [
      operator("Slice", [query, bounds[index], bounds[index + 1], own("axis")], [own(`queries_${index}`)], {}),
      attention(index),
    ]),
    operator(
      "Concat",
      range(0, PARTS).map((index) => own(`part_${index}`)),
      [output],
      { axis: 1 },
    ),
  ];
}

function operator(
  type: string,
  inputs: string[],
  outputs: string[],
  attributes: Record<string, number | number[]>,
): Uint8Array {
  return joined([
    ...inputs.map((name) => field(NODE.input, encoded(name))),
    ...outputs.map((name) => field(NODE.output, encoded(name))),
    field(NODE.name, encoded(`${outputs[0]}/${type}`)),
    field(NODE.type, encoded(type)),
    ...Object.entries(attributes).map(([name, value]) => field(NODE.attribute, attribute(name, value))),
  ]);
}

function attribute(name: string, value: number | number[]): Uint8Array {
  const whole = typeof value === "number";
  const numbers = (whole ? [value] : value).map((number) => integer(whole ? ATTRIBUTE.int : ATTRIBUTE.ints, number));
  return joined([
    field(ATTRIBUTE.name, encoded(name)),
    ...numbers,
    integer(ATTRIBUTE.type, whole ? TYPE.int : TYPE.ints),
  ]);
}

function field(number: number, content: Uint8Array): Uint8Array {
  return joined([varint(number * 8 + WIRE.delimited), varint(content.length), content]);
}

function integer(number: number, value: number): Uint8Array {
  return joined([varint(number * 8 + WIRE.varint), varint(value)]);
}

function varint(value: number): Uint8Array {
  const bytes: number[] = [];
  for (let rest = value; ; rest = Math.floor(rest / 128)) {
    if (rest < 128) return Uint8Array.of(...bytes, rest);
    bytes.push((rest % 128) + 128);
  }
}

function joined(chunks: readonly Uint8Array[]): Uint8Array {
  const result = new Uint8Array(chunks.reduce((sum, chunk) => sum + chunk.length, 0));
  let at = 0;
  for (const chunk of chunks) {
    result.set(chunk, at);
    at += chunk.length;
  }
  return result;
}

/** Yields the fields of a message, up to one that is no field: what is damaged, ONNX Runtime refuses. */
function* fieldsOf(message: Uint8Array): Generator<Field, void, void> {
  let at = 0;
  const read = (): number => {
    for (let value = 0, scale = 1; ; scale *= 128) {
      const byte = message[at++] ?? 0;
      value += (byte % 128) * scale;
      if (byte < 128) return value;
    }
  };
  while (at < message.length) {
    const start = at;
    const key = read();
    const wire = key % 8;
    let content = new Uint8Array();
    if (wire === WIRE.varint) read();
    else if (wire === WIRE.fixed64) at += 8;
    else if (wire === WIRE.fixed32) at += 4;
    else if (wire === WIRE.delimited) {
      const size = read();
      content = message.subarray(at, at + size) as typeof content;
      at += size;
    } else at = message.length;
    yield { number: Math.floor(key / 8), whole: message.subarray(start, at), content };
  }
}

function text(bytes: Uint8Array): string {
  return new TextDecoder().decode(bytes);
}

function encoded(value: string): Uint8Array {
  return new TextEncoder().encode(value);
}

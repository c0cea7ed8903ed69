/**
 * Detects by a test product whether the engine's products of unsigned and signed bytes saturate.
 *
 * x86 without VNNI adds pairs of such products in 16 bits. The codes of EXACT_EVERYWHERE are small enough for that. For
 * others ONNX Runtime can multiply unsigned bytes, which is slower everywhere and enabled only if needed. Target `web`
 * has no such products.
 */

import { BundleError } from "../errors.js";
import type { Manifest } from "../manifest.js";
import { type OnnxRuntime, rejected, type SessionConfig } from "./onnxruntime.js";
import { WEBGPU_TARGET } from "./webgpu.js";

/** Processors whose codes no processor saturates. */
const EXACT_EVERYWHERE: unknown[] = ["any", "avx2"];
const FLOATS = ["fp32", "fp16"];
const DEPTH = 64;
/** How the manifest begins the formats of linears that multiply 8-bit codes by bytes. */
const WIDE = "int8 × ";

/**
 * Unsigned products. The option also enables a pass over Q/DQ pairs, which gives a blockwise or per-axis
 * DequantizeLinear a scalar zero point that its kernel rejects; without the pass such weights are multiplied as floats.
 */
const UNSIGNED: SessionConfig = {
  session: { x64quantprecision: "1" },
  optimization: { disable_specified_optimizers: "QDQS8ToU8Transformer" },
};

/** Returns what sessions of a bundle need for exact byte products; throws BundleError if this engine has none. */
export async function productConfig(
  runtime: OnnxRuntime,
  manifest: Manifest,
  threads: number | null,
  where: string,
): Promise<SessionConfig> {
  const graphs = Object.values(manifest.graphs);
  const floats = graphs.every(({ precision }) => FLOATS.includes(precision));
  if (floats || EXACT_EVERYWHERE.includes(manifest.cpu) || manifest.target === WEBGPU_TARGET) return {};
  const isExact = (config: SessionConfig) =>
    exact(runtime, threads, config).catch((error) => {
      throw rejected(error, `${where}: a product of bytes`);
    });
  if (await isExact({})) return {};
  const fix = "export the checkpoint with --cpu any, the default";
  if (!(await isExact(UNSIGNED))) {
    throw new BundleError("the products of its int8 codes saturate in this engine", { where, fix });
  }
  const formats = graphs.flatMap(({ linears }) => Object.values(linears));
  if (manifest.target === "cpu" && formats.some((format) => format.startsWith(WIDE))) {
    console.warn(`qvl-runtime: the int8 products of ${where} are slow on this processor, which has no VNNI (${fix})`);
  }
  return UNSIGNED;
}

/** Whether dot products of DEPTH terms 255 · 127 are computed correctly. */
async function exact(runtime: OnnxRuntime, threads: number | null, config: SessionConfig): Promise<boolean> {
  const bytes = Uint8Array.from(atob(PROBE), (letter) => letter.charCodeAt(0));
  const session = await runtime.open(bytes, threads, config);
  try {
    const a = new runtime.Tensor("uint8", new Uint8Array(DEPTH).fill(255), [1, DEPTH]);
    const { y } = await session.run({ a });
    return (y.data as Int32Array).every((product) => product === DEPTH * 255 * 127);
  } finally {
    await session.release();
  }
}

/** `MatMulInteger` of `a` uint8 [1, DEPTH] and a matrix of 127s; the Python runtime's `saturation.onnx`. */
export const PROBE =
  "CAo62ggKGAoBYQoBYhIBeSINTWF0TXVsSW50ZWdlchIFcHJvYmUqjAgIQAgQEANCAWJKgAh/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39/WhMKAWESDgoMCAISCAoCCAEKAghAYhMKAXkSDgoMCAYSCAoCCAEKAggQQgQKABAV";

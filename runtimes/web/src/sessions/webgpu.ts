/** WebGPU: whether this machine can run a bundle on it, and the cache in the GPU's memory. */

import type { Tensor, TensorConstructor } from "onnxruntime-common";
import { product } from "../common/arrays.js";
import { BundleError, InstallError } from "../errors.js";
import { type CacheTensor, ELEMENT_BYTES, type Manifest } from "../manifest.js";
import type { CacheMemory } from "./layer_states.js";

/** The target whose graphs have only operators that WebGPU has. */
export const WEBGPU_TARGET = "web";
/** GPUBufferUsage.STORAGE, COPY_SRC and COPY_DST. */
const USAGE = 0x80 | 0x04 | 0x08;
/** Buffers are no smaller, since some drivers reject empty ones. */
const LEAST_BYTES = 16;
const ELSEWHERE = 'use backend: "wasm"';
/** Attention in ONNX Runtime 1.30 gives wrong results in smaller subgroups, such as SwiftShader's of 4. */
const LEAST_SUBGROUP = 8;
/** What ONNX Runtime may use more of than every adapter has. */
const LIMITS = [
  "maxBufferSize",
  "maxStorageBufferBindingSize",
  "maxStorageBuffersPerShaderStage",
  "maxComputeWorkgroupStorageSize",
  "maxComputeInvocationsPerWorkgroup",
  "maxComputeWorkgroupSizeX",
  "maxComputeWorkgroupSizeY",
  "maxComputeWorkgroupSizeZ",
  "maxComputeWorkgroupsPerDimension",
] as const;

/** Throws BundleError or InstallError, in one line, if WebGPU cannot run the bundle here. */
export async function checkWebGpu(manifest: Manifest, where: string): Promise<void> {
  if (manifest.target !== WEBGPU_TARGET) {
    throw new BundleError(`is for target ${manifest.target}; WebGPU runs target ${WEBGPU_TARGET}`, {
      where,
      fix: `export for it, or ${ELSEWHERE}`,
    });
  }
  const adapter = await requestAdapter();
  if (hasFloat16(manifest) && !adapter.features.has("shader-f16")) {
    throw new InstallError("the WebGPU adapter has no float16 (shader-f16), which the bundle needs", {
      fix: `export it with --precision fp32, or with --llm-precision int4 beside it, or ${ELSEWHERE}`,
    });
  }
}

/** Opens the GPU with all that ONNX Runtime uses of it; throws InstallError if there is none, or it gives no device. */
export async function openDevice(): Promise<GPUDevice> {
  const adapter = await requestAdapter();
  const subgroups = (adapter.info?.subgroupMinSize ?? 0) >= LEAST_SUBGROUP;
  const features = ["shader-f16", ...(subgroups ? ["subgroups"] : [])] as GPUFeatureName[];
  try {
    return await adapter.requestDevice({
      requiredFeatures: features.filter((feature) => adapter.features.has(feature)),
      requiredLimits: Object.fromEntries(LIMITS.map((limit) => [limit, adapter.limits[limit]])),
    });
  } catch (error) {
    const problem = `the WebGPU adapter gives no device: ${(error as Error).message}`;
    throw new InstallError(problem, { fix: ELSEWHERE }, { cause: error });
  }
}

/** The adapter; throws InstallError without one, as in Node.js and in pages that are not secure. */
async function requestAdapter(): Promise<GPUAdapter> {
  const adapter = await globalThis.navigator?.gpu?.requestAdapter({ powerPreference: "high-performance" });
  if (!adapter) throw new InstallError("there is no WebGPU adapter here", { fix: ELSEWHERE });
  return adapter;
}

/** Whether any graph computes in float16. */
function hasFloat16({ graphs }: Manifest): boolean {
  return Object.values(graphs).some(({ weight_bytes }) => (weight_bytes.float16 ?? 0) > 0);
}

/** Tensors of the cache in buffers of the GPU, which calls write in place. */
export class GpuMemory implements CacheMemory {
  readonly inPlace = true;
  /** The first error that no call reports: the GPU is lost, its memory is full, or it rejects a program. */
  failure: string | null = null;

  constructor(
    private readonly device: GPUDevice,
    private readonly create: TensorConstructor,
  ) {
    device.addEventListener("uncapturederror", ({ error }) => this.fail(error.message));
    device.lost.then(({ message }) => this.fail(`the GPU was lost: ${message}`));
  }

  private fail(message: string): void {
    this.failure ??= message;
  }

  zeros(dataType: CacheTensor["dtype"], dims: readonly number[]): Tensor {
    const buffer = this.device.createBuffer({
      size: Math.max(LEAST_BYTES, product(dims) * ELEMENT_BYTES[dataType]),
      usage: USAGE,
    });
    return this.create.fromGpuBuffer(buffer as never, {
      dataType: dataType === "float" ? "float32" : dataType,
      dims,
      dispose: () => buffer.destroy(),
    });
  }

  copyTokens(from: Tensor, to: Tensor, tokens: number): void {
    const [, heads, before, width] = from.dims;
    const after = to.dims[2];
    const bytes = width * (from.type === "float16" ? 2 : 4);
    const encoder = this.device.createCommandEncoder();
    for (let head = 0; head < heads && tokens > 0; head++) {
      const [source, target] = [from.gpuBuffer as GPUBuffer, to.gpuBuffer as GPUBuffer];
      encoder.copyBufferToBuffer(source, head * before * bytes, target, head * after * bytes, tokens * bytes);
    }
    this.device.queue.submit([encoder.finish()]);
  }
}

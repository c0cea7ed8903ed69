/** The only module that opens ONNX Runtime: onnxruntime-node or onnxruntime-web, the latter without or with WebGPU. */

import type { InferenceSession, Tensor, TensorConstructor } from "onnxruntime-common";
import type { GraphArray } from "../common/arrays.js";
import { BundleError, firstLine, InstallError, type QvlError } from "../errors.js";
import type { BundleFiles } from "../files.js";
import { DECODE, dataFiles, type GraphEntry, type Manifest } from "../manifest.js";
import { importOnnxRuntimeWeb, importOnnxRuntimeWebGpu } from "../packages.js";
import type { Backend } from "./backend.js";
import { type CacheMemory, HostMemory } from "./layer_states.js";
import { splitAttention } from "./split_attention.js";
import { GpuMemory, openDevice } from "./webgpu.js";

/** A graph's model file and the files that its weights are in. */
export interface GraphFiles {
  model: string;
  data: string[];
}

/** Entries of a session's configuration by the first part of their names. */
export type SessionConfig = Record<string, Record<string, string>>;

export interface OnnxRuntime {
  backend: Backend;
  Tensor: TensorConstructor;
  memory: CacheMemory;
  create(
    files: BundleFiles,
    graph: GraphFiles,
    threads: number | null,
    config: SessionConfig,
  ): Promise<InferenceSession>;
  /** Opens a model that has no other files. */
  open(model: Uint8Array, threads: number | null, config: SessionConfig): Promise<InferenceSession>;
  /** What went wrong on a GPU without an error of a call, or null. */
  failure(): string | null;
  /** Frees what the graphs shared. */
  close(): void;
}

const OPEN: Record<Backend, () => Promise<OnnxRuntime>> = { node: openNode, wasm: openWasm, webgpu: openWebGpu };

/** Returns ONNX Runtime; throws InstallError if the package of the backend is not installed. */
export async function openRuntime(backend: Backend): Promise<OnnxRuntime> {
  return OPEN[backend]();
}

async function openNode(): Promise<OnnxRuntime> {
  const ort = await imported(() => import("onnxruntime-node"), "onnxruntime-node");
  const optionsOf = (threads: number | null, extra: SessionConfig) => {
    return { ...OPTIONS, ...(threads ? { intraOpNumThreads: threads } : {}), extra };
  };
  return {
    backend: "node",
    Tensor: ort.Tensor,
    memory: hostMemory(ort.Tensor, true),
    failure: () => null,
    close: () => {},
    create: async (files, graph, threads, config) => {
      const path = files.path(graph.model);
      const options = optionsOf(threads, config);
      if (path !== null) return ort.InferenceSession.create(path, options);
      return ort.InferenceSession.create(await files.read(graph.model), await withData(options, files, graph));
    },
    open: (model, threads, config) => ort.InferenceSession.create(model, optionsOf(threads, config)),
  };
}

async function openWasm(): Promise<OnnxRuntime> {
  const ort = await imported(importOnnxRuntimeWeb, "onnxruntime-web");
  return {
    backend: "wasm",
    Tensor: ort.Tensor,
    memory: hostMemory(ort.Tensor, false),
    failure: () => null,
    close: () => {},
    ...webSessions(ort, "wasm", splitAttention),
  };
}

async function openWebGpu(): Promise<OnnxRuntime> {
  const ort = await imported(importOnnxRuntimeWebGpu, "onnxruntime-web");
  const device = await openDevice();
  const memory = new GpuMemory(device, ort.Tensor);
  return {
    backend: "webgpu",
    Tensor: ort.Tensor,
    memory,
    failure: () => memory.failure,
    close: () => device.destroy(),
    ...webSessions(ort, { name: "webgpu", device }, (model) => model),
  };
}

/** How onnxruntime-web opens models, which are `rewritten` first. */
function webSessions(
  ort: Pick<typeof import("onnxruntime-web/wasm"), "env" | "InferenceSession">,
  provider: InferenceSession.ExecutionProviderConfig,
  rewritten: (model: Uint8Array) => Uint8Array,
): Pick<OnnxRuntime, "create" | "open"> {
  const optionsOf = (threads: number | null, extra: SessionConfig) => {
    if (threads !== null) ort.env.wasm.numThreads = threads;
    return { ...OPTIONS, executionProviders: [provider], extra: structuredClone(extra) }; // it adds entries of its own
  };
  return {
    create: async (files, graph, threads, config) => {
      const options = await withData(optionsOf(threads, config), files, graph);
      return ort.InferenceSession.create(rewritten(await files.read(graph.model)), options);
    },
    open: (model, threads, config) => ort.InferenceSession.create(model, optionsOf(threads, config)),
  };
}

function hostMemory(create: TensorConstructor, inPlace: boolean): CacheMemory {
  return new HostMemory(inPlace, (array) => toTensor(create, array));
}

/** Fatal messages only: errors are thrown. Planned memory is kept even if no value needs it. */
const OPTIONS: InferenceSession.SessionOptions = { logSeverityLevel: 4, enableMemPattern: false };

/** The options with the weights of a graph that is not opened by its path. */
async function withData(
  options: InferenceSession.SessionOptions,
  files: BundleFiles,
  { data }: GraphFiles,
): Promise<InferenceSession.SessionOptions> {
  const externalData = await Promise.all(data.map(async (path) => ({ path, data: await files.read(path) })));
  return { ...options, externalData };
}

/** The files of a graph; the graph of answers shares weights with that of prompts. */
function filesOf(manifest: Manifest, name: string): GraphFiles {
  const graphs = name === DECODE ? [manifest.graphs.llm, manifest.graphs[name]] : [manifest.graphs[name]];
  return { model: manifest.graphs[name].model, data: graphs.flatMap((graph) => dataFiles(manifest, graph)) };
}

async function imported<T>(load: () => Promise<T>, name: string): Promise<T> {
  try {
    return await load();
  } catch (error) {
    throw new InstallError(
      `${name} is not installed, or does not load here`,
      { fix: `npm install ${name}` },
      { cause: error },
    );
  }
}

/** Opens a graph; throws BundleError if ONNX Runtime rejects it or its inputs and outputs are others. */
export async function openGraph(
  runtime: OnnxRuntime,
  files: BundleFiles,
  manifest: Manifest,
  name: string,
  threads: number | null,
  config: SessionConfig,
): Promise<InferenceSession> {
  const graph: GraphEntry = manifest.graphs[name];
  const where = `${files.name}/${graph.model}`;
  let session: InferenceSession;
  try {
    session = await runtime.create(files, filesOf(manifest, name), threads, config);
  } catch (error) {
    throw error instanceof BundleError ? error : rejected(error, where);
  }
  const missing = [
    ...graph.inputs.map((port) => port.name).filter((name) => !session.inputNames.includes(name)),
    ...graph.outputs.map((port) => port.name).filter((name) => !session.outputNames.includes(name)),
  ];
  if (missing.length > 0) {
    await session.release();
    throw new BundleError(`has no input or output ${missing[0]}, which the manifest lists`, {
      where,
      fix: "export again",
    });
  }
  return session;
}

/** What ONNX Runtime throws about a model, as an error of one line. */
export function rejected(error: unknown, where: string): QvlError {
  const reason = firstLine(error);
  if (reason.startsWith("no available backend found")) {
    return new InstallError(`ONNX Runtime does not start: ${reason}`, { fix: WASM_SERVED }, { cause: error });
  }
  const fix = "export or copy it again, or try a newer ONNX Runtime";
  return new BundleError(`ONNX Runtime rejects it: ${reason}`, { where, fix }, { cause: error });
}

const WASM_SERVED = "does the server send its .wasm file, and does the page's policy allow 'wasm-unsafe-eval'?";

/** An array as a tensor over the same memory. */
export function toTensor(create: TensorConstructor, array: GraphArray): Tensor {
  const untyped = create as unknown as new (type: string, data: unknown, dims: readonly number[]) => Tensor;
  return new untyped(array.type, array.data, array.dims);
}

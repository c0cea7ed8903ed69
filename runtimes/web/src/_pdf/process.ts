/**
 * Runs pdf.js in a worker with limits on time and, in Node.js, on memory, so that no PDF can stop the program.
 *
 * The worker is started when the first PDF is opened and kept. One that is late is ended, and the next request starts
 * another.
 */

import { isNode } from "../common/host.js";
import { InstallError } from "../errors.js";
import { knownPlaces, type Places } from "../packages.js";
import { type Failure, fromFailure } from "../worker/protocol.js";
import { PdfFailure, type PdfLimits } from "./limits.js";
import type { Reader } from "./reader.js";

const POLL_MILLISECONDS = 20;

type Name = "open" | "size" | "draw";

export interface Request {
  places: Places;
  name: Name;
  args: unknown[];
}

export type Answer = { value: unknown } | { failure: Failure };

/** A worker of the browser or of Node.js. */
interface Child {
  ask(request: Request, memory: number): Promise<Answer>;
  end(): void;
}

/** The worker; requests wait for those before them. */
class PdfProcess {
  private child: Promise<Child> | null = null;
  private turn: Promise<unknown> = Promise.resolve();

  /** What a method of the reader returns; throws PdfFailure, also if a limit is exceeded. */
  ask<N extends Name>(limits: PdfLimits, name: N, ...args: Parameters<Reader[N]>): ReturnType<Reader[N]> {
    const asked = () => this.answered(limits, { places: knownPlaces(), name, args });
    const result = this.turn.then(asked, asked);
    this.turn = result;
    return result as ReturnType<Reader[N]>;
  }

  private async answered({ seconds, memory }: PdfLimits, request: Request): Promise<unknown> {
    this.child ??= isNode() ? nodeChild() : Promise.resolve(browserChild());
    const child = await this.child;
    let timer: ReturnType<typeof setTimeout> | undefined;
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => reject(new PdfFailure(`it takes longer than ${seconds} s`)), 1000 * seconds);
    });
    let answer: Answer;
    try {
      answer = await Promise.race([child.ask(request, memory), late]);
    } catch (error) {
      this.child = null;
      child.end();
      throw error;
    } finally {
      clearTimeout(timer);
    }
    if ("value" in answer) return answer.value;
    const error = fromFailure(answer.failure);
    throw error instanceof InstallError ? error : new PdfFailure(error.message);
  }
}

export const pdfProcess = new PdfProcess();

function browserChild(): Child {
  if (typeof Worker === "undefined") throw new InstallError("PDFs need workers, which this browser lacks here");
  const worker = new Worker(new URL("./main.js", import.meta.url), { type: "module", name: "qvl-runtime pdf" });
  const { port1: port, port2 } = new MessageChannel();
  worker.postMessage(null, [port2]);
  return {
    ask: (request) =>
      new Promise((resolve, reject) => {
        port.onmessage = ({ data }) => resolve(data);
        worker.onerror = (event) => {
          event.preventDefault();
          reject(new PdfFailure(`its worker failed: ${event.message ?? "its program does not load"}`));
        };
        port.postMessage(request);
      }),
    end: () => worker.terminate(),
  };
}

async function nodeChild(): Promise<Child> {
  const { Worker } = await import("node:worker_threads");
  const worker = new Worker(new URL("./main.js", import.meta.url));
  return {
    ask: (request, memory) => {
      let watch: ReturnType<typeof setInterval>;
      return new Promise<Answer>((resolve, reject) => {
        worker.ref();
        watch = setInterval(watcher(memory, reject), POLL_MILLISECONDS);
        worker.removeAllListeners();
        worker.on("message", resolve);
        worker.on("error", (error) => reject(new PdfFailure(error.message)));
        worker.on("exit", (code) => reject(new PdfFailure(`its worker ended with code ${code}`)));
        worker.postMessage(request);
      }).finally(() => {
        clearInterval(watch);
        worker.unref(); // an idle worker does not keep the program from ending
      });
    },
    end: () => void worker.terminate(),
  };
}

/** Compares the memory of the whole program with that of now: canvases count for no limit of a worker. */
function watcher(memory: number, reject: (error: PdfFailure) => void): () => void {
  const most = process.memoryUsage.rss() + memory;
  return () => {
    if (process.memoryUsage.rss() <= most) return;
    reject(new PdfFailure(`it takes more than ${Math.round(memory / 2 ** 20)} MiB of memory`));
  };
}

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
  /** Whether it has ended by itself. */
  ended: boolean;
  ask(request: Request, memory: number): Promise<Answer>;
  end(): void;
}

/** The worker; requests wait for those before them. */
class PdfProcess {
  private child: Child | null = null;
  private turn: Promise<void> = Promise.resolve();

  /** What a method of the reader returns; throws PdfFailure, also if a limit is exceeded. */
  ask<N extends Name>(limits: PdfLimits, name: N, ...args: Parameters<Reader[N]>): ReturnType<Reader[N]> {
    const asked = () => this.answered(limits, { places: knownPlaces(), name, args });
    const result = this.turn.then(asked);
    const ended = () => {};
    this.turn = result.then(ended, ended);
    return result as ReturnType<Reader[N]>;
  }

  private async answered({ seconds, memory }: PdfLimits, request: Request): Promise<unknown> {
    if (this.child?.ended) this.child = null;
    this.child ??= isNode() ? await nodeChild() : browserChild();
    const { child } = this;
    let timer: ReturnType<typeof setTimeout> | undefined;
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => reject(new PdfFailure(`it takes longer than ${seconds} s`, true)), 1000 * seconds);
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

/** The request that a worker answers; nothing is kept of it afterwards, such as the pixels of a page. */
interface Waiting {
  resolve(answer: Answer): void;
  reject(error: PdfFailure): void;
}

function browserChild(): Child {
  if (typeof Worker === "undefined") throw new InstallError("PDFs need workers, which this browser lacks here");
  const worker = new Worker(new URL("./main.js", import.meta.url), { type: "module", name: "qvl-runtime pdf" });
  const { port1: port, port2 } = new MessageChannel();
  worker.postMessage(null, [port2]);
  let waiting: Waiting | null = null;
  port.onmessage = ({ data }) => waiting?.resolve(data);
  worker.onerror = (event) => {
    event.preventDefault();
    waiting?.reject(new PdfFailure(`its worker failed: ${event.message ?? "its program does not load"}`));
  };
  return {
    ended: false,
    ask: (request) =>
      new Promise<Answer>((resolve, reject) => {
        waiting = { resolve, reject };
        port.postMessage(request);
      }).finally(() => {
        waiting = null;
      }),
    end: () => worker.terminate(),
  };
}

async function nodeChild(): Promise<Child> {
  const { Worker } = await import("node:worker_threads");
  const worker = new Worker(new URL("./main.js", import.meta.url));
  let waiting: Waiting | null = null;
  const child: Child = {
    ended: false,
    ask: (request, memory) => {
      let watch: ReturnType<typeof setInterval>;
      return new Promise<Answer>((resolve, reject) => {
        waiting = { resolve, reject };
        worker.ref();
        watch = setInterval(watcher(memory, reject), POLL_MILLISECONDS);
        worker.postMessage(request);
      }).finally(() => {
        waiting = null;
        clearInterval(watch);
        worker.unref(); // an idle worker does not keep the program from ending
      });
    },
    end: () => void worker.terminate(),
  };
  worker.on("message", (answer) => waiting?.resolve(answer));
  worker.on("error", (error) => waiting?.reject(new PdfFailure(error.message)));
  worker.on("exit", (code) => {
    child.ended = true;
    waiting?.reject(new PdfFailure(`its worker ended with code ${code}`));
  });
  return child;
}

/** Compares the memory of the whole program with that of now: canvases count for no limit of a worker. */
function watcher(memory: number, reject: (error: PdfFailure) => void): () => void {
  const most = process.memoryUsage.rss() + memory;
  return () => {
    if (process.memoryUsage.rss() <= most) return;
    reject(new PdfFailure(`it takes more than ${Math.round(memory / 2 ** 20)} MiB of memory`, true));
  };
}

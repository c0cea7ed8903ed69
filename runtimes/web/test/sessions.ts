/** Sessions of ONNX Runtime that tests change before the runtime opens them. */

import type { TestContext } from "node:test";
import type { InferenceSession, InferenceSessionFactory } from "onnxruntime-common";

type Options = InferenceSession.SessionOptions;
type Open = (model: never, options: Options) => Promise<InferenceSession>;

/** Until the test ends, `InferenceSession.create` is what `change` makes of it. */
export function wrapCreate(context: TestContext, ort: InferenceSessionFactory, change: (open: Open) => Open): void {
  const holder = ort as unknown as { create: Open };
  const original = holder.create;
  holder.create = change(original.bind(ort) as Open);
  context.after(() => {
    holder.create = original;
  });
}

/** Until the test ends, sessions have further entries of configuration. */
export function changeSessions(context: TestContext, ort: InferenceSessionFactory, extra: Options["extra"]): void {
  wrapCreate(context, ort, (open) => (model, options) => open(model, { ...options, extra }));
}

/** Finds stop strings in a streamed answer; no part of them is emitted. */

/** Emits the pieces of an answer up to the first complete stop string; what may still become one is held back. */
export class StopStrings {
  /** The string that ended the answer. */
  found: string | null = null;
  private held = "";

  constructor(private readonly strings: readonly string[]) {}

  /** Returns the text that certainly belongs to the answer and was not returned yet. */
  feed(piece: string): string {
    const text = this.held + piece;
    let best: { end: number; string: string } | null = null;
    for (const string of this.strings) {
      const at = text.indexOf(string);
      if (at < 0) continue;
      const end = at + string.length;
      const better = best === null || end < best.end || (end === best.end && string.length > best.string.length);
      if (better) best = { end, string };
    }
    if (best !== null) {
      this.held = "";
      this.found = best.string;
      return text.slice(0, best.end - best.string.length);
    }
    const kept = Math.max(0, ...this.strings.map((string) => overlap(text, string)));
    this.held = text.slice(text.length - kept);
    return text.slice(0, text.length - kept);
  }

  /** Returns the text held back, once the answer has ended without a stop string. */
  rest(): string {
    const { held } = this;
    this.held = "";
    return held;
  }
}

/** Length of the longest suffix of `text` that is a proper prefix of `string`. */
function overlap(text: string, string: string): number {
  for (let size = Math.min(text.length, string.length - 1); size > 0; size--) {
    if (string.startsWith(text.slice(text.length - size))) return size;
  }
  return 0;
}

/** Parses the JSON value at a place of a text, which goes on after it; `JSON.parse` takes whole texts only. */

/** The value and the index after it, or the index at which the text is not JSON. */
export type Parsed = { value: unknown; end: number } | { failedAt: number };

/** Deeper values are not parsed. */
const MAX_DEPTH = 500;

class Failed extends Error {
  constructor(readonly at: number) {
    super("not JSON");
  }
}

/** Parses the value at `index`, with Python's `NaN`, `Infinity` and `-Infinity`. */
export function parseAt(text: string, index: number): Parsed {
  const reader = new Reader(text, index);
  try {
    const value = reader.value(0);
    return { value, end: reader.index };
  } catch (error) {
    if (error instanceof Failed) return { failedAt: error.at };
    throw error;
  }
}

/** The value of a whole text, with the same additions; null if it is not JSON. */
export function parseJson(text: string): { value: unknown } | null {
  const parsed = parseAt(text, /^[ \t\n\r]*/.exec(text)![0].length);
  return "failedAt" in parsed || /[^ \t\n\r]/.test(text.slice(parsed.end)) ? null : parsed;
}

const SCALAR =
  /(?:"(?:[^"\\\u0000-\u001f]|\\(?:["\\/bfnrt]|u[\da-fA-F]{4}))*"|-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][-+]?\d+)?|true|false|null)/y;
const NOT_FINITE = /NaN|-?Infinity/y;
const SPACE = /[ \t\n\r]*/y;

class Reader {
  constructor(
    private readonly text: string,
    public index: number,
  ) {}

  value(depth: number): unknown {
    const sign = this.text[this.index];
    if (depth > MAX_DEPTH) throw new Failed(this.index);
    if (sign === "{") return this.object(depth);
    if (sign === "[") return this.list(depth);
    return this.scalar();
  }

  private object(depth: number): Record<string, unknown> {
    const found: [string, unknown][] = [];
    this.items("}", () => {
      if (this.text[this.index] !== '"') throw new Failed(this.index);
      const key = this.scalar() as string;
      this.space();
      this.expect(":");
      this.space();
      found.push([key, this.value(depth + 1)]);
    });
    return Object.fromEntries(found);
  }

  private list(depth: number): unknown[] {
    const found: unknown[] = [];
    this.items("]", () => found.push(this.value(depth + 1)));
    return found;
  }

  /** Reads items that are separated by commas, up to the closing bracket. */
  private items(closing: string, item: () => void): void {
    this.index++;
    this.space();
    if (this.text[this.index] === closing) {
      this.index++;
      return;
    }
    for (;;) {
      item();
      this.space();
      if (this.text[this.index] === closing) break;
      this.expect(",");
      this.space();
    }
    this.index++;
  }

  private scalar(): unknown {
    const found = this.match(SCALAR);
    if (found !== null) return JSON.parse(found);
    const special = this.match(NOT_FINITE);
    if (special === null) throw new Failed(this.index);
    return Number(special);
  }

  private space(): void {
    this.match(SPACE);
  }

  private expect(sign: string): void {
    if (this.text[this.index] !== sign) throw new Failed(this.index);
    this.index++;
  }

  private match(pattern: RegExp): string | null {
    pattern.lastIndex = this.index;
    const found = pattern.exec(this.text);
    if (found === null) return null;
    this.index = pattern.lastIndex;
    return found[0];
  }
}

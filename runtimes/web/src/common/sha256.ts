/** SHA-256 by the Web Crypto API, which browsers and Node have. */

export async function sha256(...parts: (string | Uint8Array | Uint8ClampedArray)[]): Promise<Uint8Array> {
  const pieces = parts.map((part) => (typeof part === "string" ? new TextEncoder().encode(part) : part));
  const joined = new Uint8Array(pieces.reduce((size, piece) => size + piece.length, 0));
  let offset = 0;
  for (const piece of pieces) {
    joined.set(piece, offset);
    offset += piece.length;
  }
  return new Uint8Array(await crypto.subtle.digest("SHA-256", joined));
}

export function hex(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Caches image features, so that a second question about the same page does not run the vision tower again. */

import type { Features } from "../sessions/engine.js";

/** A least-recently-used cache, bounded in bytes. */
export class FeatureCache {
  private readonly items = new Map<string, Features>();
  private size = 0;

  constructor(private readonly limit: number) {}

  get(key: string): Features | undefined {
    const found = this.items.get(key);
    if (found !== undefined) {
      this.items.delete(key);
      this.items.set(key, found);
    }
    return found;
  }

  put(key: string, features: Features): void {
    this.items.set(key, features);
    this.size += bytesOf(features);
    for (const [oldest, held] of this.items) {
      if (this.size <= this.limit || this.items.size === 1) break;
      this.items.delete(oldest);
      this.size -= bytesOf(held);
    }
  }

  clear(): void {
    this.items.clear();
    this.size = 0;
  }
}

function bytesOf(features: Features): number {
  return features.layers.reduce((sum, layer) => sum + layer.byteLength, 0);
}

/** How much of a bundle has been read. */

export interface LoadProgress {
  /** The file that is being read, and whether it comes from the network or was kept by an earlier load. */
  file: string;
  source: "network" | "kept";
  /** Bytes of all files that are read: those so far, and of all. */
  loaded: number;
  total: number;
}

/** Adds up the bytes of files; one that is read twice counts once. */
export class ProgressCount {
  private readonly loaded = new Map<string, number>();
  private total = 0;

  constructor(private readonly report: (progress: LoadProgress) => void = () => {}) {}

  expect(sizes: readonly number[]): void {
    this.total = sizes.reduce((sum, size) => sum + size, 0);
  }

  /** Reports that there are `bytes` of a file. */
  at(file: string, bytes: number, source: LoadProgress["source"]): void {
    if (bytes < (this.loaded.get(file) ?? 0)) return;
    this.loaded.set(file, bytes);
    const loaded = [...this.loaded.values()].reduce((sum, size) => sum + size, 0);
    this.report({ file, source, loaded, total: this.total });
  }
}

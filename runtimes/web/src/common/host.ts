/** What runs the program. */

/** Whether this is Node (or what is compatible with it), rather than a browser or a worker of one. */
export function isNode(): boolean {
  return typeof process !== "undefined" && Boolean(process.versions?.node);
}

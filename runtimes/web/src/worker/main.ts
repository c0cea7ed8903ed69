/** The program of the worker that `load` starts in browsers. */

import { serveHost } from "./host.js";
import type { Port } from "./protocol.js";

serveHost(self as unknown as Port);

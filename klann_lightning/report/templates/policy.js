"use strict";
/** On a web host no script may come as data: worklets come as blobs there. Runs before the page is read. */
if (location.protocol !== "file:") {
  const meta = document.createElement("meta");
  meta.httpEquiv = "Content-Security-Policy";
  meta.content = "script-src 'self' blob: 'wasm-unsafe-eval'";
  document.head.append(meta);
}

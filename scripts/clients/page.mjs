// A page for a browser's SDK: runs a module within jsdom, with a fetch that keeps the browser's rules for other origins, until the SDK has
// sent everything. node page.mjs MODULE.mjs; the module imports `@tell-rs/browser`.
import { JSDOM } from "jsdom";
import { pathToFileURL } from "node:url";

const page = new JSDOM("<!doctype html><title>Shop</title>", {
  url: "https://shop.example/home?utm_source=mail",
  referrer: "https://search.example/",
  pretendToBeVisual: true,
});
const { window } = page;
const origin = window.location.origin;
const nodeFetch = globalThis.fetch;
let answers = 0;
const beacons = [];

// jsdom has no fetch. What a browser does besides: it names the page's origin, asks before it sends what a form could not, and
// shows the page no answer that does not allow it.
async function fetchAsPage(url, options = {}) {
  const headers = new Headers(options.headers);
  const allows = (answer) => ["*", origin].includes(answer.headers.get("access-control-allow-origin"));
  const contentType = (headers.get("content-type") ?? "text/plain").split(";")[0];
  const isSimple = [...headers.keys()].every((name) => ["content-type", "accept"].includes(name)) &&
    ["text/plain", "multipart/form-data", "application/x-www-form-urlencoded"].includes(contentType);
  if (!isSimple) {
    const asks = { origin, "access-control-request-method": options.method ?? "GET", "access-control-request-headers": [...headers.keys()].join() };
    const answer = await nodeFetch(url, { method: "OPTIONS", headers: asks });
    if (!answer.ok || !allows(answer)) throw new TypeError("Failed to fetch: preflight");
  }
  headers.set("origin", origin);
  const answer = await nodeFetch(url, { ...options, keepalive: false, headers });
  if (!allows(answer)) throw new TypeError("Failed to fetch: CORS");
  if (answer.status !== 202) throw new Error(`${url}: ${answer.status} ${await answer.text()}`);
  answers += 1;
  return answer;
}

// A beacon is a request whose answer nobody reads, and so nobody asks whether it may be read.
window.navigator.sendBeacon = (url, blob) => {
  beacons.push(blob.text().then((body) => nodeFetch(url, { method: "POST", headers: { origin, "content-type": blob.type }, body })));
  return true;
};
window.matchMedia ??= () => ({ matches: false });
// jsdom's own agent counts as a bot's: the SDK would say nothing.
Object.defineProperty(window.navigator, "userAgent", {
  value: "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36",
});
for (const name of ["window", "document", "navigator", "location", "localStorage", "sessionStorage", "screen", "matchMedia"]) {
  Object.defineProperty(globalThis, name, { value: name === "window" ? window : window[name], configurable: true });
}
globalThis.addEventListener = window.addEventListener.bind(window);
globalThis.removeEventListener = window.removeEventListener.bind(window);
globalThis.fetch = fetchAsPage;

await import(pathToFileURL(process.argv[2]).href);
const { default: tell } = await import("@tell-rs/browser");
await tell.flush();
if (beacons.length !== 0) throw new Error("a beacon before the page is left");
// The last words of a page that is left go by beacon.
tell.track("Page Left", { path: window.location.pathname });
window.dispatchEvent(new window.Event("beforeunload"));
if (beacons.length !== 1) throw new Error(`${beacons.length} beacons`);
await Promise.all(beacons);
await tell.close();
if (answers === 0) throw new Error("the SDK sent nothing");
console.log(`${answers} requests`);
process.exit(0);

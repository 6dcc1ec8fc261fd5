// Look at the built site in a real Chromium: node docs/check_site.mjs
// Needs `npm install playwright-core` in the folder that PLAYWRIGHT names, and a Chromium (CHROMIUM). SITE: the built site; OUT: a folder for pictures.
import { createRequire } from "node:module";
import { createServer } from "node:http";
import { readFile, readdir } from "node:fs/promises";
import { extname, join, resolve } from "node:path";

const { SITE = "build/site", OUT = "", CHROMIUM = "/usr/bin/chromium", PLAYWRIGHT = "." } = process.env;
const { chromium } = createRequire(resolve(PLAYWRIGHT, "x.js"))("playwright-core");
const kinds = { ".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".css": "text/css", ".png": "image/png", ".svg": "image/svg+xml" };

const server = createServer(async (request, response) => {
  try {
    const path = decodeURIComponent(new URL(request.url, "http://site").pathname);
    const body = await readFile(join(SITE, path));
    response.writeHead(200, { "content-type": kinds[extname(path)] ?? "application/octet-stream" }).end(body);
  } catch {
    response.writeHead(404).end();
  }
});
await new Promise((ready) => server.listen(0, "127.0.0.1", ready));
const root = `http://127.0.0.1:${server.address().port}/`;

const faults = [];
const browser = await chromium.launch({ executablePath: CHROMIUM, args: ["--no-sandbox"] });
const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, colorScheme: "light" });
await context.route("**/*", (route) => {
  if (route.request().url().startsWith(root) || route.request().url().startsWith("data:")) return route.continue();
  faults.push(`outside request: ${route.request().url()}`);
  return route.abort();
});
const page = await context.newPage();
page.on("pageerror", (error) => faults.push(`script error on ${page.url()}: ${error.message}`));
page.on("response", (got) => got.status() >= 400 && faults.push(`${got.status()}: ${got.url()}`));
const picture = (name) => OUT && page.screenshot({ path: join(OUT, `${name}.png`) });
const visit = (path) => page.goto(root + path, { waitUntil: "load" });
const expect = (truth, what) => truth || faults.push(what);

// Every page: no request leaves it, no script fails, and a phone does not have to scroll sideways.
const pages = (await readdir(SITE, { recursive: true })).filter((path) => path.endsWith(".html") && !path.startsWith("_static"));
await page.setViewportSize({ width: 375, height: 800 });
for (const path of pages) {
  await visit(path);
  const [wide, seen] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
  expect(wide <= seen, `${path} is ${wide} wide on a screen of ${seen}`);
}
await visit("notebooks/03_lora.html");
await picture("narrow");
await page.locator("button.primary-toggle").first().click();
await page.waitForTimeout(500);
expect(await page.getByRole("link", { name: "The failure museum" }).first().isVisible(), "the menu does not open on a narrow screen");
await picture("narrow-menu");

// The search, in both languages, typed as a reader types it.
await page.setViewportSize({ width: 1280, height: 900 });
for (const [name, query, wanted] of [["english", "rank of an adapter", "03_lora"], ["chinese", "帐篷的重量", "08_rag"], ["term", "困惑度", "glossary"]]) {
  await visit("index.html");
  await page.keyboard.press("Control+k");
  await page.keyboard.type(query);
  await page.keyboard.press("Enter");
  await page.waitForSelector("#search-results ul.search li", { timeout: 10000 }).catch(() => faults.push(`nothing found for ${query}`));
  await page.waitForTimeout(1500); // the summaries come one by one
  const found = await page.$$eval("#search-results ul.search li a", (links) => links.map((link) => link.getAttribute("href")));
  expect(found.some((path) => path.includes(wanted)), `${query}: ${wanted} is not among ${found.length} results`);
  console.log(`${query}: ${found.length} results, first ${found[0]}`);
  await picture(`search-${name}`);
}

// The theme switch, and whether it is remembered on the next page.
await visit("notebooks/01_architecture_and_moe_routing.html#nb01-explorer");
await picture("notebook-light");
const theme = () => page.evaluate(() => document.documentElement.dataset.theme);
await page.getByLabel("Color mode").first().click();
await page.getByRole("button", { name: "Dark" }).first().click();
expect((await theme()) === "dark", "the switch does not reach the dark theme");
await page.waitForTimeout(300);
await picture("notebook-dark");
await visit("claims.html");
expect((await theme()) === "dark", "the dark theme is forgotten on the next page");
await picture("claims-dark");

await browser.close();
server.close();
console.log(`${pages.length} pages\n${faults.join("\n") || "nothing wrong"}`);
process.exit(faults.length ? 1 : 0);

// For work on the page without building the agent: `node serve.mjs [PORT [SERVICES]]` serves the page's files as they are
// on disk, in front of a synthetic mesh. No secret is asked for, so it is for synthetic data only.

import http from "node:http";
import { readFileSync } from "node:fs";
import { extname, join, normalize } from "node:path";
import { agents, mesh } from "./synthetic.mjs";

const [port = 8000, services = 200] = process.argv.slice(2).map(Number);
const page = join(import.meta.dirname, "../../mesh-agent/src/cli/dashboard/page");
const types = { ".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml" };
const small = services < 60 ? { namespaces: 3, pods: services * 3, nodes: 1 } : {};
const { runDirs } = await agents(mesh({ services, ...small }), join(import.meta.dirname, `../../target/console/serve-${port}`));

http
  .createServer((request, response) => {
    const path = new URL(request.url, "http://localhost").pathname;
    if (path === "/api/agents") return response.end(JSON.stringify(runDirs));
    const [, at, question] = path.match(/^\/api\/agents\/(\d+)\/(\w+)$/) ?? [];
    if (question) {
      const asked = http.request({ socketPath: join(runDirs[at], "agent.sock"), path: `/${question}`, method: request.method }, (answer) => {
        response.writeHead(answer.statusCode, { "content-type": "application/json" });
        answer.pipe(response);
      });
      // A tap goes on until whoever looks leaves.
      response.on("close", () => asked.destroy());
      asked.on("error", () => response.destroy());
      return request.pipe(asked);
    }
    const file = join(page, normalize(path === "/" ? "/index.html" : path));
    try {
      const bytes = readFileSync(file);
      response.writeHead(200, { "content-type": types[extname(file)] ?? "text/plain", "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; worker-src 'self'" });
      response.end(bytes);
    } catch {
      response.writeHead(404).end();
    }
  })
  .listen(port, "127.0.0.1", () => console.log(`http://127.0.0.1:${port}/`));

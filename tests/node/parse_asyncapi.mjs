// The official parser's diagnostics of severity error and warning for the AsyncAPI document on stdin, one JSON list.
import { readFileSync } from "node:fs";
import { DiagnosticSeverity, Parser } from "@asyncapi/parser";

const { document, diagnostics } = await new Parser().parse(readFileSync(0, "utf-8"));
const found = diagnostics
  .filter((one) => one.severity <= DiagnosticSeverity.Warning)
  .map((one) => ({ severity: one.severity, code: one.code, path: one.path.join("."), message: one.message }));
if (document === undefined && found.length === 0) {
  throw new Error("the parser made no document of it, and said nothing");
}
console.log(JSON.stringify(found));

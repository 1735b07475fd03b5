// TypeScript types of the JSON Schema on stdin: an interface or a type for each definition.
import { readFileSync } from "node:fs";
import { compile } from "json-schema-to-typescript";

// A field that refers to a type is of that type: what stands beside the reference would make another of it.
function plain(schema) {
  if (Array.isArray(schema)) return schema.map(plain);
  if (schema === null || typeof schema !== "object") return schema;
  if (typeof schema.$ref === "string") return { $ref: schema.$ref };
  return Object.fromEntries(Object.entries(schema).map(([name, part]) => [name, plain(part)]));
}

const { $id, title, description, ...bundle } = JSON.parse(readFileSync(0, "utf-8"));
const made = await compile(plain(bundle), "Root", {
  additionalProperties: false, // no index signature where a schema leaves it open, so that a slip in a name is found
  bannerComment: `// ${description}\n// Made of ${title}'s JSON Schema by json-schema-to-typescript.`,
  ignoreMinAndMaxItems: true,
  style: { printWidth: 110 },
  unreachableDefinitions: true,
});
const text = made
  .replaceAll(/( \*\n)? \* This interface was referenced by `Root`'s JSON-Schema\n \* via the `definition` "\w+"\.\n/g, "")
  .replaceAll("/**\n */\n", "")
  .replace(/export interface Root \{[^}]*\}\n/, "");
if (text.includes("Root")) throw new Error("json-schema-to-typescript writes its texts in another way now");
process.stdout.write(text);

// What ajv (2020-12, strict) says of {"bundle", "samples"} on stdin: one JSON list of [definition, sample, path, message].
import { readFileSync } from "node:fs";
import { Ajv2020 } from "ajv/dist/2020.js";
import formats from "ajv-formats";

const { bundle, samples } = JSON.parse(readFileSync(0, "utf-8"));
const ajv = new Ajv2020({ strict: true, allErrors: true, validateFormats: true });
formats.default(ajv);
ajv.addSchema(bundle);

const found = [];
for (const definition of Object.keys(bundle.$defs)) {
  const validate = ajv.getSchema(`${bundle.$id}#/$defs/${definition}`); // compiles it: throws where it is no schema
  for (const [name, value] of Object.entries(samples[definition] ?? {})) {
    if (!validate(value)) {
      for (const error of validate.errors) {
        found.push([definition, name, error.instancePath, `${error.message} ${JSON.stringify(error.params)}`]);
      }
    }
  }
}
console.log(JSON.stringify(found));

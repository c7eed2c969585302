// openapi.json for people.

import { ask } from "./api.js";
import { $, h, table } from "./dom.js";

const words = (schema) => schema.enum ? schema.enum.join(" or ") : schema.items ? `${schema.items.type}, repeatable` : schema.type;

function endpoint(path, method, one) {
  const example = method === "post"
    ? `curl --data-binary @cat.jpg -H 'Content-Type: image/jpeg' '${location.origin}${path}'\ncurl -F file=@cat.jpg -F file=@dog.jpg '${location.origin}${path}'`
    : `curl '${location.origin}${path}'`;
  return h("section", {},
    h("h2", {}, `${method.toUpperCase()} ${path}`), h("p", {}, `${one.summary}.`), h("pre", {}, example),
    one.parameters ? table(["parameter", "takes", "default", "meaning"], one.parameters.map((given) =>
      [given.name, words(given.schema), String(given.schema.default ?? ""), given.description])) : null,
    table(["status", "when"], Object.entries(one.responses).map(([status, said]) => [status, said.description])));
}

try {
  const found = await ask("/openapi.json", {});
  $("paths").replaceChildren(h("p", {}, found.info.description, found.security ? ". Send the header Authorization: Bearer TOKEN." : "."),
    ...Object.entries(found.paths).flatMap(([path, methods]) =>
      Object.entries(methods).map(([method, one]) => endpoint(path, method, one))));
} catch (error) {
  $("paths").replaceChildren(h("p", { role: "alert" }, error.message));
}

// The page /docs: shows /openapi.json, and sends what it shows (docs-try.js). It builds elements and sets their text;
// nothing of the document becomes markup.

import { tryIt } from "./docs-try.js";

const METHODS = ["get", "post", "put", "patch", "delete"];

/** An element with properties and children (elements, text, or null). */
function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children.filter((child) => child !== null && child !== ""));
  return made;
}

/** Text in which `this` is code. */
function prose(text) {
  return (text ?? "").split("`").map((part, index) => (index % 2 ? element("code", {}, part) : part));
}

class Api {
  constructor(described) {
    this.described = described;
  }

  /** What a {$ref} stands for. */
  resolve(thing) {
    if (!thing?.$ref) return thing ?? {};
    const steps = thing.$ref.slice(2).split("/");
    return this.resolve(steps.reduce((place, step) => place[step], this.described));
  }

  /** A schema in a few words: "text", "whole number 1–1000", "list of Result". */
  kind(schema) {
    if (schema.$ref) return schema.$ref.split("/").pop();
    if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
    if (schema.anyOf) return schema.anyOf.map((one) => this.kind(one)).join(" | ");
    if (schema.type === "array") return `list of ${this.kind(schema.items ?? {})}`;
    const names = { string: "text", integer: "whole number", number: "number", boolean: "true | false", null: "null" };
    const { minimum, maximum } = schema;
    const range = maximum === undefined ? "" : ` ${minimum ?? ""}–${maximum}`;
    return (names[schema.type] ?? schema.type ?? "any JSON value") + range;
  }

  /** A value that a schema allows, out of its examples. */
  example(schema, depth = 0) {
    const actual = this.resolve(schema);
    if (actual.examples) return actual.examples[0];
    if (actual.enum) return actual.enum[0];
    if (actual.anyOf) return this.example(actual.anyOf[0], depth);
    if (actual.type === "array") return depth > 3 ? [] : [this.example(actual.items ?? {}, depth + 1)];
    if (actual.type === "object") {
      const wanted = Object.entries(actual.properties ?? {}).filter(([name]) => actual.required?.includes(name));
      return Object.fromEntries(wanted.map(([name, field]) => [name, this.example(field, depth + 1)]));
    }
    return { string: "…", integer: 1, number: 1, boolean: false }[actual.type] ?? null;
  }

  /** The fields of an object, as a table. */
  fields(schema) {
    const actual = this.resolve(schema);
    if (actual.type !== "object" || !Object.keys(actual.properties ?? {}).length) return null;
    const rows = Object.entries(actual.properties).map(([name, field]) => ({
      name,
      required: actual.required?.includes(name),
      schema: field,
      description: field.description ?? field.anyOf?.find((one) => one.description)?.description,
    }));
    return this.table(rows);
  }

  table(rows) {
    const body = rows.map(({ name, place, required, schema, description }) =>
      element(
        "tr",
        {},
        element(
          "th",
          { scope: "row" },
          element("code", {}, name),
          required ? element("b", { title: "required" }, "*") : "",
        ),
        element("td", {}, this.kind(schema), place ? element("small", {}, ` in the ${place}`) : ""),
        element(
          "td",
          {},
          ...prose(description),
          schema.default ? ` (${JSON.stringify(schema.default)} if left out)` : "",
        ),
      ),
    );
    return element("div", { className: "scroll", tabIndex: 0 }, element("table", {}, element("tbody", {}, ...body)));
  }

  /** The request as a command line. */
  curl(path, method, operation) {
    const filled = path.replace(/{(\w+)}/g, (_, name) => {
      const parameter = operation.parameters.find((one) => one.in === "path" && one.name === name);
      return encodeURIComponent(this.example(parameter.schema)).replaceAll("%3A", ":");
    });
    const query = operation.parameters
      .filter((one) => one.in === "query" && (one.required || one.name === "after"))
      .flatMap((one) => [this.example(one.schema)].flat().map((value) => `${one.name}=${value === "…" ? "0" : value}`));
    const stream = operation.responses["200"]?.content?.["text/event-stream"] ? "-N " : "";
    const address = `${location.origin}${filled}${query.length ? `?${query.join("&")}` : ""}`;
    const body = operation.requestBody?.content["application/json"];
    const sent = body
      ? ` \\\n  -H 'Content-Type: application/json' \\\n  -d '${JSON.stringify(this.request(body.schema))}'`
      : "";
    return `curl ${stream}${method === "get" ? "" : `-X ${method.toUpperCase()} `}'${address}'${sent}`;
  }

  /** An example of a body; of one that requires nothing, its first field. */
  request(schema) {
    const made = this.example(schema);
    const [first] = Object.entries(this.resolve(schema).properties ?? {});
    return Object.keys(made).length || !first ? made : { [first[0]]: this.example(first[1]) };
  }

  response(status, response) {
    const actual = this.resolve(response);
    const types = Object.entries(actual.content ?? {});
    const schema = types[0]?.[1].schema;
    return element(
      "details",
      {},
      element(
        "summary",
        {},
        element("b", { className: `status s${status[0]}` }, status),
        ` ${actual.description} `,
        element("small", {}, types.map(([type]) => type).join(", ")),
      ),
      schema ? (this.fields(schema) ?? element("p", {}, this.kind(schema))) : "",
    );
  }

  operation(path, method, operation) {
    const rows = operation.parameters.map((one) => ({
      ...one,
      place: { query: "query", header: "header", path: "path" }[one.in],
    }));
    const body = operation.requestBody?.content["application/json"]?.schema;
    return element(
      "section",
      { id: operation.operationId },
      element(
        "h2",
        {},
        element("b", { className: `method ${method}` }, method.toUpperCase()),
        " ",
        element("code", {}, path),
      ),
      element("p", { className: "summary" }, operation.summary),
      element("p", {}, ...prose(operation.description)),
      element("pre", { tabIndex: 0 }, element("code", {}, this.curl(path, method, operation))),
      tryIt(this, path, method, operation),
      rows.length ? element("h3", {}, "Parameters") : "",
      rows.length ? this.table(rows) : "",
      body ? element("h3", {}, "Body") : "",
      body ? element("p", {}, ...prose(this.resolve(body).description)) : "",
      body ? this.fields(body) : "",
      element("h3", {}, "Answers"),
      ...Object.entries(operation.responses).map(([status, response]) => this.response(status, response)),
    );
  }

  operations() {
    return Object.entries(this.described.paths).flatMap(([path, item]) =>
      METHODS.filter((method) => item[method]).map((method) => ({ path, method, operation: item[method] })),
    );
  }
}

const main = document.querySelector("#operations");
try {
  const response = await fetch("/openapi.json");
  if (!response.ok) throw new Error(`/openapi.json: ${response.status}`);
  const api = new Api(await response.json());
  document.querySelector("#version").textContent = api.described.info.version;
  const all = api.operations();
  document
    .querySelector("#contents")
    .append(
      element(
        "ul",
        {},
        ...all.map(({ path, method, operation }) =>
          element(
            "li",
            {},
            element(
              "a",
              { href: `#${operation.operationId}`, title: path },
              element("b", { className: `method ${method}` }, method.toUpperCase()),
              ` ${operation.summary}`,
            ),
          ),
        ),
      ),
    );
  main.replaceChildren(...all.map(({ path, method, operation }) => api.operation(path, method, operation)));
  if (location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView();
} catch (error) {
  document.querySelector("#state").textContent = `The document could not be read: ${error.message}`;
}

// The OpenAPI document as a page.

const byId = (id) => document.getElementById(id);

function made(tag, text, ...children) {
  const element = document.createElement(tag);
  element.append(text, ...children);
  return element;
}

function typeOf(schema) {
  if (!schema) return "";
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.oneOf) return schema.oneOf.map(typeOf).join(" or ");
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" or ");
  if (schema.type === "array") return `list of ${typeOf(schema.items)}`;
  return [].concat(schema.type).join(" or ");
}

function list(pairs) {
  const box = document.createElement("dl");
  for (const [term, text] of pairs) box.append(made("dt", term), made("dd", text));
  return box;
}

function operation(method, path, about) {
  const box = document.createElement("details");
  box.append(made("summary", "", made("b", method.toUpperCase()), `${path} – ${about.summary}`));
  const inputs = (about.parameters ?? []).map((one) => [one.name, `${typeOf(one.schema)} in the ${one.in}. ${one.description ?? ""}`]);
  if (about.requestBody) inputs.push(["body", about.requestBody.description]);
  if (about.security) inputs.push(["Authorization", "Bearer TOKEN"]);
  const outputs = Object.entries(about.responses).map(([status, { description, content }]) => {
    const [media, inside] = Object.entries(content ?? {})[0] ?? [];
    return [status, `${description}${media ? `: ${typeOf(inside.schema) || media}` : ""}`];
  });
  box.append(list([...inputs, ...outputs]));
  return box;
}

const description = await (await fetch("openapi.json")).json();
byId("example").textContent = `curl --data-binary @clip.wav ${new URL("v1/identify", document.baseURI)}`;
byId("listening").textContent = description.info.description;
for (const [path, operations] of Object.entries(description.paths)) {
  for (const [method, about] of Object.entries(operations)) byId("operations").append(operation(method, path, about));
}
for (const [name, schema] of Object.entries(description.components.schemas)) {
  const box = document.createElement("details");
  const members = Object.entries(schema.properties).map(([key, one]) => [key, `${typeOf(one)}. ${one.description ?? ""}`]);
  box.append(made("summary", "", made("b", name)), list(members));
  byId("schemas").append(box);
}

// What Swagger UI's page lacks for screen readers: a heading above its groups, and a name for the list of servers.
const headed = (Filter, { React: { createElement } }) => (properties) =>
  createElement("div", null, createElement("h2", { className: "visually-hidden" }, "Routes"), createElement(Filter, properties));

SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#page",
  deepLinking: true,
  docExpansion: "none",
  defaultModelsExpandDepth: -1,
  filter: true,
  tryItOutEnabled: true,
  plugins: [() => ({ wrapComponents: { FilterContainer: headed } })],
  onComplete: () => document.querySelector("#servers")?.setAttribute("aria-label", "Server"),
});

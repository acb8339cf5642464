// A request as code for each client that works with this farm.
import { byId, copy, element } from "./dom.js";

const farm = () => new URL(".", document.baseURI).href.replace(/\/$/, "");
const json = (value) => JSON.stringify(value, null, 2);

/** Return JSON as a Python literal. */
function python(value) {
  return json(value).replace(/("(?:\\.|[^"\\])*")|\b(true|false|null)\b/g, (_, text, word) => text ?? { true: "True", false: "False", null: "None" }[word]);
}

/** Return the text for a shell in single quotes. */
const quoted = (text) => `'${text.replaceAll("'", String.raw`'\''`)}'`;

const without = (body, ...names) => Object.fromEntries(Object.entries(body).filter(([name]) => !names.includes(name)));

/** The fields that only the farm's own API takes. */
const OWN = ["model", "priority", "webhook_url", "webhook_events"];
/** Presets of sizes in pixels, as the request's form knows them. */
const sized = ({ image_size: size }, presets) => (typeof size === "object" ? [size.width, size.height] : presets[size ?? "landscape_4_3"]);

const CLIENTS = {
  curl: ({ body, key }) =>
    `curl -X POST ${farm()}/farm/v1/jobs${key ? ` \\\n  -H "Authorization: Bearer $FARM_API_KEY"` : ""} \\\n  -H 'Content-Type: application/json' \\\n  -d ${quoted(json(body))}`,

  "Python: fal-client": ({ body, ids }) =>
    ids.fal &&
    `import os

os.environ.setdefault("FAL_KEY", "any")  # a key of this farm
import fal_client, fal_client.client as fal

fal.RUN_URL_FORMAT = "${farm()}/fal/run/"
fal.QUEUE_URL_FORMAT = "${farm()}/fal/queue/"
result = fal_client.subscribe("${ids.fal[0]}", ${python(without(body, ...OWN))})
print(result["images"][0]["url"])`,

  "Python: openai": ({ body, ids, presets }) => {
    if (!ids.openai || body.image_url || body.image_urls) return undefined;
    const size = body.aspect_ratio ? "" : `, size="${sized(body, presets).join("x")}"`;
    const more = without(body, ...OWN, "prompt", "image_size", "sync_mode", "num_images");
    return `import os
import openai

client = openai.OpenAI(base_url="${farm()}/v1", api_key=os.environ.get("FARM_API_KEY", "any"))
result = client.images.generate(
    model="${body.model.startsWith("kontext") ? "kontext" : "srpo"}",
    prompt=${python(body.prompt)},
    n=${body.num_images ?? 1}${size},
    response_format="url",
    extra_body=${python(more)},
)
print(*(image.url for image in result.data), sep="\\n")`;
  },

  "Python: wavespeed": ({ body, ids, presets }) => {
    if (!ids.wavespeed) return undefined;
    const more = without(body, ...OWN, "image_size", "sync_mode", "image_url", "enable_safety_checker", "acceleration");
    const fields = { ...more, ...(body.image_url ? { image: body.image_url } : { size: sized(body, presets).join("*") }) };
    return `import os
import wavespeed

client = wavespeed.Client(api_key=os.environ.get("FARM_API_KEY", "any"), base_url="${farm()}")
result = client.run("${ids.wavespeed[0]}", ${python(fields)})
print(*result["outputs"], sep="\\n")`;
  },

  "JavaScript: @fal-ai/client": ({ body, ids }) =>
    ids.fal &&
    `import { fal } from "@fal-ai/client";

fal.config({ credentials: process.env.FARM_API_KEY ?? "any", proxyUrl: { url: "${farm()}/fal/proxy", when: "always" } });
const { data } = await fal.subscribe("${ids.fal[0]}", { input: ${json(without(body, ...OWN))} });
console.log(data.images[0].url);`,

  "JavaScript: fetch": ({ body }) =>
    `const headers = { Authorization: \`Bearer \${process.env.FARM_API_KEY ?? "any"}\`, "Content-Type": "application/json" };
const answer = await fetch("${farm()}/farm/v1/jobs", { method: "POST", headers, body: JSON.stringify(${json(body)}) });
let job = await answer.json();
if (!answer.ok) throw new Error(job.detail);
do {
  await new Promise((resolve) => setTimeout(resolve, 500));
  job = await (await fetch(\`${farm()}/farm/v1/jobs/\${job.id}\`, { headers })).json();
} while (job.status === "created" || job.status === "processing");
console.log(job.error ?? job.images.map((image) => image.url).join("\\n"));`,
};

/** Show the request as code. `about` is {body, ids, presets, key}. */
export function showCode(about) {
  const shown = Object.entries(CLIENTS).map(([name, write]) => [name, write(about)]).filter(([, text]) => text);
  const tabs = shown.map(([name, text]) => element("button", { type: "button", role: "tab", textContent: name, onclick: () => choose(name, text) }));
  const choose = (name, text) => {
    byId("code-text").textContent = text;
    for (const tab of tabs) tab.setAttribute("aria-selected", String(tab.textContent === name));
  };
  byId("code-tabs").replaceChildren(...tabs);
  choose(...shown[0]);
  byId("code-copied").textContent = "";
  byId("code-copy").onclick = async () => {
    await copy(byId("code-text").textContent);
    byId("code-copied").textContent = "copied";
  };
  byId("code-dialog").showModal();
}

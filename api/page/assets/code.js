// A request as code for each client that works with this farm. Where a dialect has other defaults, the code names the value.
import { byId, copy, element } from "./dom.js";

const farm = () => new URL(".", document.baseURI).href.replace(/\/$/, "");
const json = (value) => JSON.stringify(value, null, 2);

/** Return JSON as a Python literal. */
function python(value) {
  return json(value).replace(/("(?:\\.|[^"\\])*")|\b(true|false|null)\b/g, (_, text, word) => text ?? { true: "True", false: "False", null: "None" }[word]);
}

/** The fields of a job, which only calls of the farm's own API can send. */
const JOB = ["priority", "webhook_url", "webhook_events"];
/** The clients that call the farm's own API. */
const OWN_CLIENTS = ["curl", "fetch"];
/** The fields that the clients of OpenAI and WaveSpeed name in another way. */
const RENAMED = ["image_size", "image_url", "image_urls", "num_images"];
/** Where a dialect's defaults are not the farm's own. */
const DIFFERING = {
  openai: ["output_format"],
  aimlapi: ["acceleration"],
  siraya: ["output_format", "acceleration", "enable_safety_checker"],
  wavespeed: ["num_inference_steps", "guidance_scale", "strength", "output_format"],
};

const without = (body, ...names) => Object.fromEntries(Object.entries(body).filter(([name]) => !names.includes(name)));
const only = (body, ...names) => Object.fromEntries(Object.entries(body).filter(([name, value]) => names.includes(name) && value !== undefined));

/** Return the sides in pixels that a request names; none where they follow from its ratio or its input image. */
function namedSides({ full: { image_size: size }, presets }) {
  if (size === undefined) return [];
  return typeof size === "object" ? [size.width, size.height] : presets[size];
}

/** Return true if a dialect that answers with URLs takes these sides, and the request's seed. */
function fits({ body, terms }, dialect, sides) {
  if (body.sync_mode) return false;
  const { min, max, multiple, min_seed, max_seed } = terms[dialect];
  const seeds = body.seed === undefined ? [] : [body.seed];
  return sides.every((side) => side >= min && side <= max && side % multiple === 0) && seeds.every((seed) => seed >= min_seed && seed <= max_seed);
}

/** Return the fields of a call to OpenAI's images API in a dialect; undefined where it cannot be told the same. */
function imagesCall(about, dialect) {
  const { body, full, ids, images, takesImages } = about;
  const sides = namedSides(about);
  if (!ids[dialect] || !fits(about, dialect, sides) || (takesImages && !images.length)) return undefined;
  const size = sides.length ? { size: sides.join("x") } : {};
  const named = { model: ids[dialect][0], prompt: body.prompt, n: full.num_images, ...size, response_format: "url" };
  return [named, { ...without(body, "model", ...RENAMED, "prompt"), ...only(full, ...DIFFERING[dialect]) }];
}

/** Return id and fields of a prediction of WaveSpeed's: one image of a given size, always checked, every step in full. */
function prediction(about) {
  const { body, full, ids, images, takesImages, inputSides } = about;
  const isOffered = ids.wavespeed && full.num_images === 1 && full.enable_safety_checker && full.acceleration === "none";
  const sides = takesImages ? inputSides : namedSides(about);
  if (!isOffered || !sides || !fits(about, "wavespeed", sides)) return undefined;
  const own = without(body, "model", ...RENAMED, "enable_safety_checker", "acceleration");
  const source = takesImages ? { image: images[0] } : {};
  return [ids.wavespeed[0], { ...own, ...only(full, ...DIFFERING.wavespeed), ...source, size: sides.join("*") }];
}

/** Return a call by curl. `scheme` is the word before the key in a dialect's header. */
function curl(path, body, { key }, scheme = "Bearer") {
  const headers = [...(key ? [`"Authorization: ${scheme} $FARM_API_KEY"`] : []), "'Content-Type: application/json'"];
  return `curl -X POST ${farm()}/${path} \\\n  ${headers.map((header) => `-H ${header}`).join(" \\\n  ")} -d @- <<'JSON'\n${json(body)}\nJSON`;
}

const curlImages = (dialect) => (about) => {
  const call = imagesCall(about, dialect);
  const [path, source] = about.takesImages ? ["edits", { image_urls: about.images }] : ["generations", {}];
  return call && curl(`v1/images/${path}`, { ...call[0], ...source, ...call[1] }, about);
};

const pythonImages = (dialect) => (about) => {
  const call = imagesCall(about, dialect);
  if (!call) return undefined;
  const named = Object.entries(call[0]).map(([name, value]) => `    ${name}=${python(value)},`);
  const files = about.images.map((url) => `urlopen(${python(url)}).read()`);
  if (files.length) named.push(`    image=[${files.join(", ")}],`);
  return `import os
${files.length ? "from urllib.request import urlopen\n" : ""}
import openai

client = openai.OpenAI(base_url="${farm()}/v1", api_key=os.environ.get("FARM_API_KEY", "any"))
result = client.images.${files.length ? "edit" : "generate"}(
${named.join("\n")}
    extra_body=${python(call[1])},
)
print(*(image.url for image in result.data), sep="\\n")`;
};

const javascriptImages = (dialect) => (about) => {
  const call = imagesCall(about, dialect);
  if (!call) return undefined;
  const fields = json({ ...call[0], ...call[1] });
  const edit = `const urls = ${json(about.images)};
const image = await Promise.all(urls.map(async (url) => toFile(await fetch(url), "image")));
const { data } = await client.images.edit({ image, ...${fields} });`;
  return `import OpenAI${about.takesImages ? ", { toFile }" : ""} from "openai";

const client = new OpenAI({ baseURL: "${farm()}/v1", apiKey: process.env.FARM_API_KEY ?? "any" });
${about.takesImages ? edit : `const { data } = await client.images.generate(${fields});`}
console.log(data.map((image) => image.url).join("\\n"));`;
};

/** Language → client → what writes the request as its code; undefined where the client cannot be told the same. */
const CLIENTS = {
  Shell: {
    curl: (about) => curl("farm/v1/jobs", about.body, about),
    "curl, as at fal": (about) => about.ids.fal && curl(`fal/run/${about.ids.fal[0]}`, without(about.body, "model"), about, "Key"),
    "curl, as at OpenAI": curlImages("openai"),
    "curl, as at AI/ML API": curlImages("aimlapi"),
    "curl, as at Siraya": curlImages("siraya"),
    "curl, as at WaveSpeed": (about) => {
      const call = prediction(about);
      return call && curl(`api/v3/${call[0]}`, call[1], about);
    },
  },
  Python: {
    "fal-client": ({ body, ids }) =>
      ids.fal &&
      `import os

os.environ.setdefault("FAL_KEY", os.environ.get("FARM_API_KEY", "any"))
import fal_client, fal_client.client as fal

fal.RUN_URL_FORMAT = "${farm()}/fal/run/"
fal.QUEUE_URL_FORMAT = "${farm()}/fal/queue/"
result = fal_client.subscribe("${ids.fal[0]}", ${python(without(body, "model"))})
print(*(image["url"] for image in result["images"]), sep="\\n")`,

    openai: pythonImages("openai"),
    "openai, as at AI/ML API": pythonImages("aimlapi"),
    "openai, as at Siraya": pythonImages("siraya"),

    wavespeed: (about) => {
      const call = prediction(about);
      return call && `import os
import wavespeed

client = wavespeed.Client(api_key=os.environ.get("FARM_API_KEY", "any"), base_url="${farm()}")
result = client.run("${call[0]}", ${python(call[1])})
print(*result["outputs"], sep="\\n")`;
    },
  },
  JavaScript: {
    "@fal-ai/client": ({ body, ids }) =>
      ids.fal &&
      `import { fal } from "@fal-ai/client";

fal.config({ credentials: process.env.FARM_API_KEY ?? "any", proxyUrl: { url: "${farm()}/fal/proxy", when: "always" } });
const { data } = await fal.subscribe("${ids.fal[0]}", { input: ${json(without(body, "model"))} });
console.log(data.images.map((image) => image.url).join("\\n"));`,

    openai: javascriptImages("openai"),
    "openai, as at AI/ML API": javascriptImages("aimlapi"),
    "openai, as at Siraya": javascriptImages("siraya"),

    wavespeed: (about) => {
      const call = prediction(about);
      return call && `import { Client } from "wavespeed";

const client = new Client(process.env.FARM_API_KEY ?? "any", { baseUrl: "${farm()}" });
const { outputs } = await client.run("${call[0]}", ${json(call[1])});
console.log(outputs.join("\\n"));`;
    },

    fetch: ({ body }) =>
      `const headers = { Authorization: \`Bearer \${process.env.FARM_API_KEY ?? "any"}\`, "Content-Type": "application/json" };
const answer = await fetch("${farm()}/farm/v1/jobs", { method: "POST", headers, body: JSON.stringify(${json(body)}) });
let job = await answer.json();
if (!answer.ok) throw new Error(job.detail);
do {
  await new Promise((resolve) => setTimeout(resolve, 500));
  job = await (await fetch(\`${farm()}/farm/v1/jobs/\${job.id}\`, { headers })).json();
} while (job.status === "created" || job.status === "processing");
console.log(job.error ?? job.images.map((image) => image.url).join("\\n"));`,
  },
};

/** Return a group of options for the clients of a language, with the code of each in `texts`. */
function group(language, clients, about, texts) {
  const options = Object.entries(clients).flatMap(([name, write]) => {
    const isTold = OWN_CLIENTS.includes(name) || !JOB.some((field) => field in about.body);
    const text = isTold && write(about);
    if (!text) return [];
    texts.set(`${language}: ${name}`, text);
    return [element("option", { value: `${language}: ${name}`, textContent: name })];
  });
  return element("optgroup", { label: language }, options);
}

/**
 * Show the request as code. `about` is {body, full, ids, presets, terms, key, takesImages, images, inputSides}: the last
 * are the URLs of the input images, and the sides of the first one, null where the page cannot know them.
 */
export function showCode(about) {
  const texts = new Map();
  const client = byId("code-client");
  const before = client.value;
  client.replaceChildren(...Object.entries(CLIENTS).map(([language, clients]) => group(language, clients, about, texts)));
  if (texts.has(before)) client.value = before;
  const show = () => {
    byId("code-text").textContent = texts.get(client.value);
    byId("code-copied").textContent = "";
  };
  client.onchange = show;
  show();
  byId("code-copy").onclick = async () => {
    await copy(byId("code-text").textContent);
    byId("code-copied").textContent = "copied";
  };
  byId("code-dialog").showModal();
}

// Input images: dropped, pasted, taken with a camera, chosen as files or given by URL. Files are sent as data URIs within the request.
import { element } from "./dom.js";

const TYPES = ["image/jpeg", "image/png", "image/webp"];

function read(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}

/** Up to `most` images. */
export class ImageInput {
  constructor(id, most) {
    this.most = most;
    this.urls = [];
    this.file = element("input", { id, type: "file", accept: TYPES.join(","), multiple: most > 1 });
    this.input = this.file;
    this.camera = element("input", { type: "file", accept: TYPES.join(","), capture: "environment", hidden: true });
    for (const input of [this.file, this.camera]) input.addEventListener("change", () => this.add([...input.files]));
    const take = element("button", { type: "button", className: "camera", textContent: "Take a photo", onclick: () => this.camera.click() });
    this.url = element("input", { type: "url", placeholder: "or a URL, then Enter", "aria-label": "URL of an input image" });
    this.url.addEventListener("keydown", (event) => this.addUrl(event));
    this.list = element("ul", { className: "thumbnails" });
    this.message = element("p", { className: "error", role: "alert" });
    this.node = element("div", { className: "images" }, this.file, take, this.camera, this.url, this.list, this.message);
  }

  /** Add files. Others than images are refused. */
  async add(files) {
    const images = files.filter((file) => TYPES.includes(file.type));
    try {
      this.put(await Promise.all(images.map(read)));
      if (images.length < files.length) this.message.textContent = "Only JPEG, PNG and WebP images can be used.";
    } catch {
      this.message.textContent = "The file cannot be read: choose it again.";
    }
    this.file.value = this.camera.value = "";
  }

  addUrl(event) {
    if (event.key !== "Enter" || event.ctrlKey || !this.url.value.trim()) return;
    event.preventDefault();
    this.put([this.url.value.trim()]);
    this.url.value = "";
  }

  put(urls) {
    const all = [...this.urls, ...urls];
    this.urls = this.most === 1 ? all.slice(-1) : all.slice(0, this.most);
    this.message.textContent = this.most > 1 && all.length > this.most ? `At most ${this.most} images can be used.` : "";
    this.show();
  }

  show() {
    this.list.replaceChildren(...this.urls.map((url, at) => this.thumbnail(url, at)));
  }

  thumbnail(url, at) {
    const remove = () => {
      this.urls.splice(at, 1);
      this.show();
    };
    const shown = isOwn(absolute(url))
      ? element("img", { src: url, alt: `Input image ${at + 1}` })
      : element("span", { textContent: url });
    return element("li", {}, shown, element("button", { type: "button", onclick: remove, "aria-label": `Remove input image ${at + 1}`, textContent: "×" }));
  }

  get value() {
    const typed = this.url.value.trim();
    const urls = typed ? [...this.urls, typed] : this.urls;
    if (!urls.length) return undefined;
    return this.most === 1 ? absolute(urls.at(-1)) : urls.slice(0, this.most).map(absolute);
  }

  set value(value) {
    this.urls = value === undefined || value === null ? [] : [value].flat();
    this.show();
  }
}

/** Return width and height of an image in pixels; null where this page may not load it. */
export async function sidesOf(url) {
  if (!url || !isOwn(url)) return null;
  const image = element("img", { src: url });
  try {
    await image.decode();
  } catch {
    return null; // no image
  }
  return [image.naturalWidth, image.naturalHeight];
}

const isOwn = (url) => url.startsWith("data:") || url.startsWith(document.baseURI);

/** Return a URL that the farm can resolve: its own files are named on this page by their path. */
const absolute = (url) => (url.startsWith("files/") ? new URL(url, document.baseURI).href : url);

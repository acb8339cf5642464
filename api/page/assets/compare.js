// Two images on top of each other, with a slider between them.
import { byId, element } from "./dom.js";

/** Show two images, each {url, name}. */
export function compare(left, right) {
  const under = element("img", { src: right.url, alt: right.name });
  const over = element("img", { src: left.url, alt: left.name, className: "over" });
  const slider = element("input", { type: "range", min: 0, max: 100, value: 50, autofocus: true, "aria-label": "Boundary between the images" });
  const stage = element("div", { className: "stage" }, under, over);
  const move = () => stage.style.setProperty("--cut", `${slider.value}%`);
  slider.addEventListener("input", move);
  const follow = (event) => {
    if (!event.buttons) return;
    const box = stage.getBoundingClientRect();
    slider.value = (100 * (event.clientX - box.left)) / box.width;
    move();
  };
  stage.addEventListener("pointerdown", (event) => {
    stage.setPointerCapture(event.pointerId); // beyond the images' edge, too
    follow(event);
  });
  stage.addEventListener("pointermove", follow);
  move();
  const names = element("div", { className: "row head" }, element("span", { textContent: left.name }), element("span", { textContent: right.name }));
  byId("compare-view").replaceChildren(stage, slider, names);
  byId("compare-dialog").showModal();
}

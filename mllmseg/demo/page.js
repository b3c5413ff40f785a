// Runs once in each HTML part of the page. Parts are redrawn from the server, so everything listens on `element`.
// A click on [data-do] or [data-work] tells the server; so does a point or a box on the picture.
const svg = () => element.querySelector("svg.picture");

function at(event, picture) {
  const place = new DOMPoint(event.clientX, event.clientY).matrixTransform(picture.getScreenCTM().inverse());
  const { width, height } = picture.viewBox.baseVal;
  return { x: Math.min(Math.max(place.x, 0), width - 1), y: Math.min(Math.max(place.y, 0), height - 1) };
}

function show_tip(event) {
  const tip = element.querySelector(".tip");
  if (!tip) return;
  const text = event.target.dataset ? event.target.dataset.tip : "";
  tip.hidden = !text;
  if (!text) return;
  tip.textContent = text;
  const frame = tip.parentElement.getBoundingClientRect();
  const box = event.target.getBoundingClientRect();
  const x = (event.clientX ?? box.left + box.width / 2) - frame.left;
  const y = (event.clientY ?? box.top + box.height / 2) - frame.top;
  tip.style.left = Math.max(4, Math.min(x + 14, frame.width - tip.offsetWidth - 4)) + "px";
  tip.style.top = Math.max(4, y - tip.offsetHeight - 8) + "px";
}

const SVG = "http://www.w3.org/2000/svg";
let corner = null, frame = null, cross = null;

function point(place, pointer) {
  trigger("work", { work: "point", ...place, inside: pointer === "add" });
}

// A picture may be dropped onto the stage, or chosen by a click on it while it is empty: both end in the message box.
const inbox = () => document.querySelector("#message input[type=file]");

function drop(event) {
  if (!element.closest("#stage") || !event.dataTransfer?.types.includes("Files")) return;
  event.preventDefault();
  const stage = element.closest("#stage");
  stage.classList.toggle("dropping", event.type === "dragover");
  if (event.type !== "drop" || !inbox()) return;
  const files = new DataTransfer();
  for (const file of event.dataTransfer.files) files.items.add(file);
  inbox().files = files.files;
  inbox().dispatchEvent(new Event("change", { bubbles: true }));
  document.querySelector("#message textarea").focus();
}
for (const kind of ["dragover", "dragleave", "drop"]) element.addEventListener(kind, drop);

element.addEventListener("click", (event) => {
  if (event.target.closest("button.empty")) return inbox()?.click();
  const button = event.target.closest("[data-do], [data-work]");
  if (button && button.tagName === "BUTTON") {
    if (button.dataset.do) trigger("act", { do: button.dataset.do, value: button.dataset.value ?? "" });
    else {
      element.classList.add("busy");
      trigger("work", { work: button.dataset.work, value: button.dataset.value ?? "", colour: button.dataset.colour ?? "" });
      setTimeout(() => element.classList.remove("busy"), 1500);
    }
    return;
  }
  const picture = event.target.closest("svg.picture");
  if (!picture) return;
  const pointer = picture.dataset.pointer;
  if (pointer === "add" || pointer === "take") point(at(event, picture), pointer);
  else if (pointer === "look" && event.target.dataset.mask) trigger("act", { do: "select", value: event.target.dataset.mask });
});

element.addEventListener("change", (event) => {
  if (event.target.dataset.do === "rename")
    trigger("act", { do: "rename", value: event.target.dataset.value, name: event.target.value });
});

element.addEventListener("pointerdown", (event) => {
  const picture = event.target.closest("svg.picture");
  if (!picture || picture.dataset.pointer !== "box") return;
  event.preventDefault();
  corner = at(event, picture);
  frame = document.createElementNS(SVG, "rect");
  frame.setAttribute("class", "box");
  picture.querySelector(".drawn").appendChild(frame);
  picture.setPointerCapture(event.pointerId);
});

function spanned(event, picture) {
  const end = at(event, picture);
  return {
    x: Math.min(corner.x, end.x), y: Math.min(corner.y, end.y),
    width: Math.abs(end.x - corner.x), height: Math.abs(end.y - corner.y),
  };
}

element.addEventListener("pointermove", (event) => {
  show_tip(event);
  if (!corner) return;
  const box = spanned(event, svg());
  for (const key in box) frame.setAttribute(key, box[key]);
});

element.addEventListener("pointerup", (event) => {
  if (!corner) return;
  const box = spanned(event, svg());
  frame.remove();
  corner = frame = null;
  if (box.width > 2 && box.height > 2) trigger("work", { work: "box", ...box });
});

element.addEventListener("pointercancel", () => {
  if (frame) frame.remove();
  corner = frame = null;
});
element.addEventListener("pointerleave", () => { const tip = element.querySelector(".tip"); if (tip) tip.hidden = true; });
element.addEventListener("focusin", show_tip);

// Without a mouse: arrows move a cross over the picture, Enter clicks there; in box mode the second Enter closes the box.
element.addEventListener("keydown", (event) => {
  const picture = event.target.closest("svg.picture");
  if (!picture) return;
  const pointer = picture.dataset.pointer;
  const { width, height } = picture.viewBox.baseVal;
  const step = Math.max(width, height) / (event.shiftKey ? 200 : 40);
  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  if (pointer === "look") {
    if (event.key === "Enter" && event.target.dataset.mask) trigger("act", { do: "select", value: event.target.dataset.mask });
    return;
  }
  if (moves[event.key]) {
    event.preventDefault();
    if (!cross || !cross.isConnected) {
      cross = document.createElementNS(SVG, "path");
      cross.setAttribute("class", "cross");
      cross.place = { x: width / 2, y: height / 2 };
      picture.querySelector(".drawn").appendChild(cross);
    }
    cross.place.x = Math.min(Math.max(cross.place.x + step * moves[event.key][0], 0), width - 1);
    cross.place.y = Math.min(Math.max(cross.place.y + step * moves[event.key][1], 0), height - 1);
    const { x, y } = cross.place, arm = Math.max(width, height) / 40;
    cross.setAttribute("d", `M${x - arm} ${y}H${x + arm}M${x} ${y - arm}V${y + arm}`);
  } else if (event.key === "Enter" && cross && cross.isConnected) {
    event.preventDefault();
    const { x, y } = cross.place;
    if (pointer !== "box") point({ x, y }, pointer);
    else if (!cross.corner) cross.corner = { x, y };
    else {
      const first = cross.corner;
      cross.remove();
      trigger("work", { work: "box", x: Math.min(x, first.x), y: Math.min(y, first.y),
                        width: Math.abs(x - first.x), height: Math.abs(y - first.y) });
    }
  }
});

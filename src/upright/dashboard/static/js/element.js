// Elements without markup: what a file says only ever becomes text, so no name can become an element.

/** An element with attributes, listeners (onclick: …), and children that are elements or texts. */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  setAttributes(made, attributes);
  made.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return made;
}

/** The same of SVG. */
export function drawn(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  setAttributes(made, attributes);
  made.append(...children);
  return made;
}

function setAttributes(made, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, String(value));
  }
}

/** A table that scrolls sideways, with the keyboard too. */
export function scrolling(label, table, kind = "") {
  return element("div", { class: `scroll ${kind}`, role: "region", "aria-label": label, tabindex: 0 }, table);
}

/** Say something to whoever listens to the page instead of looking at it. */
export function announce(text) {
  document.getElementById("said").textContent = text;
}

/** Ask before something that cannot be taken back; resolves to whether it is meant. */
export function confirmed(title, text, yes) {
  return new Promise((resolve) => {
    const dialog = element("dialog", { "aria-label": title },
      element("h2", {}, title), element("p", {}, text),
      element("div", { class: "buttons" },
        element("button", { type: "button", onclick: () => dialog.close("") }, "Cancel"),
        element("button", { type: "button", class: "main", onclick: () => dialog.close("yes") }, yes)));
    dialog.addEventListener("close", () => { dialog.remove(); resolve(dialog.returnValue === "yes"); });
    document.body.append(dialog);
    dialog.showModal();
  });
}

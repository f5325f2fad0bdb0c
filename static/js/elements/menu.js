// @ts-check
/**
 * A menu or a list to choose from, in the top layer beside the button that opened it. Loaded when it is first wanted.
 *
 * @typedef {{id: string, name: string, note?: string, icon?: string, selected?: boolean, danger?: boolean}} Row
 */
import { drawing } from "../markdown.js";

const SEARCH_FROM = 8; // so many rows are found faster by typing
const GAP = 8;

/**
 * Resolves to the chosen row's id, or null if the menu was left.
 * @param {HTMLElement} button
 * @param {{rows: Row[], label: string, role?: "menu" | "listbox", above?: HTMLElement, short?: boolean, empty?: string}} options
 * @returns {Promise<string | null>}
 */
export function openMenu(button, { rows, label, role = "menu", above, short = false, empty = "Nothing here." }) {
  const menu = document.createElement("div");
  menu.className = short ? "menu menu--short" : "menu";
  menu.popover = "auto";
  const list = document.createElement("div");
  list.setAttribute("role", role);
  list.setAttribute("aria-label", label);
  list.append(...rows.map((row) => rowElement(row, role)));
  if (!rows.length) list.append(sentence(empty));
  if (rows.length >= SEARCH_FROM) menu.append(searchField(list, label));
  menu.append(list);

  return new Promise((resolve) => {
    let chosen = /** @type {string | null} */ (null);
    const choose = (/** @type {HTMLElement?} */ row) => {
      chosen = row?.dataset.id ?? null;
      menu.hidePopover();
    };
    menu.addEventListener("click", (event) => {
      const row = /** @type {Element} */ (event.target).closest(".menu__row");
      if (row instanceof HTMLElement) choose(row);
    });
    menu.addEventListener("keydown", (event) => move(event, menu));
    menu.addEventListener("toggle", (event) => {
      if (/** @type {ToggleEvent} */ (event).newState !== "closed") return;
      button.setAttribute("aria-expanded", "false");
      if (menu.contains(document.activeElement) || document.activeElement === document.body) button.focus();
      menu.remove();
      resolve(chosen);
    });
    (button.closest("main, chat-sidebar") ?? document.body).append(menu);
    menu.showPopover();
    button.setAttribute("aria-expanded", "true");
    position(menu, button, above);
    const first = menu.querySelector("input") ?? menu.querySelector('[aria-selected="true"]') ?? menu.querySelector(".menu__row");
    /** @type {HTMLElement | null} */ (first)?.focus({ preventScroll: false });
  });
}

/** @param {Row} row @param {string} role */
function rowElement({ id, name, note = "", icon, selected, danger }, role) {
  const row = document.createElement("button");
  row.type = "button";
  row.className = danger ? "menu__row menu__row--danger" : "menu__row";
  row.dataset.id = id;
  row.setAttribute("role", role === "listbox" ? "option" : "menuitem");
  if (role === "listbox") row.setAttribute("aria-selected", String(Boolean(selected)));
  if (icon) row.append(drawing(icon));
  row.append(span("menu__name", name), span("menu__note", note));
  if (role === "listbox") row.append(drawing("check"));
  return row;
}

/** @param {string} className @param {string} text */
function span(className, text) {
  const node = document.createElement("bdi");
  node.className = className;
  node.textContent = text;
  return node;
}

/** @param {string} text */
function sentence(text) {
  const node = document.createElement("p");
  node.className = "menu__say";
  node.textContent = text;
  return node;
}

/** @param {HTMLElement} list @param {string} label */
function searchField(list, label) {
  const field = document.createElement("input");
  field.className = "menu__search";
  field.type = "search";
  field.placeholder = "Search";
  field.setAttribute("aria-label", `Search: ${label}`);
  field.addEventListener("input", () => {
    const words = field.value.toLowerCase().split(/\s+/);
    for (const row of /** @type {HTMLElement[]} */ ([...list.children])) {
      row.hidden = !words.every((word) => (row.textContent ?? "").toLowerCase().includes(word));
    }
  });
  return field;
}

/** @param {KeyboardEvent} event @param {HTMLElement} menu */
function move(event, menu) {
  const rows = /** @type {HTMLElement[]} */ ([...menu.querySelectorAll(".menu__row:not([hidden])")]);
  const at = rows.indexOf(/** @type {HTMLElement} */ (document.activeElement));
  const inField = document.activeElement instanceof HTMLInputElement;
  const to = { ArrowDown: at + 1, ArrowUp: at < 0 ? rows.length - 1 : at - 1, Home: inField ? NaN : 0, End: inField ? NaN : rows.length - 1 }[event.key];
  if (event.key === "Enter" && inField) (event.preventDefault(), rows[0]?.click());
  else if (event.key === "Tab") menu.hidePopover();
  else if (to !== undefined && !Number.isNaN(to)) (event.preventDefault(), rows[(to + rows.length) % rows.length]?.focus());
  else if (!inField && event.key.length === 1 && /\S/.test(event.key) && !event.ctrlKey && !event.metaKey) {
    const begins = (row) => row.textContent.toLowerCase().startsWith(event.key.toLowerCase());
    (rows.slice(at + 1).find(begins) ?? rows.find(begins))?.focus();
  }
}

/** Above *above*, or under the button; turned to the side where there is room. @param {HTMLElement} menu @param {HTMLElement} button @param {HTMLElement} [above] */
function position(menu, button, above) {
  const [box, own] = [button.getBoundingClientRect(), menu.getBoundingClientRect()];
  const top = above ? above.getBoundingClientRect().top - GAP - own.height : box.bottom + GAP / 2;
  const flipped = !above && top + own.height > innerHeight - GAP ? box.top - own.height - GAP / 2 : top;
  const rtl = getComputedStyle(button).direction === "rtl";
  const start = rtl ? box.right - own.width : box.left;
  const end = rtl ? box.left : box.right - own.width;
  const fits = start >= GAP && start + own.width <= innerWidth - GAP;
  menu.style.top = `${Math.max(GAP, flipped)}px`;
  menu.style.left = `${Math.min(Math.max(GAP, fits ? start : end), innerWidth - own.width - GAP)}px`;
}

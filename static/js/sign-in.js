// @ts-check
/** Sign in and sign up. Where a sign-in can still be renewed, it is, and the visitor is sent back unasked. */
import { api, ApiError, renewable, renew } from "./api.js";

const form = /** @type {HTMLFormElement} */ (document.getElementById("door")); // none where nobody is admitted
const formError = /** @type {HTMLElement} */ (document.getElementById("form-error"));
const query = new URLSearchParams(location.search);

/** Back to where the visitor wanted to go, on this site only. */
function enter() {
  const next = query.get("next") ?? "";
  location.replace(/^\/c\/[\da-f-]{36}$/i.test(next) ? next : "/");
}

/** @param {HTMLElement} where @param {string} text */
function say(where, text) {
  const icon = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  icon.setAttribute("class", "icon");
  icon.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(icon.namespaceURI, "use");
  use.setAttribute("href", "#i-warning");
  icon.append(use);
  where.replaceChildren(icon, text);
  where.hidden = false;
}

function clear() {
  for (const note of form.querySelectorAll(".field__error")) /** @type {HTMLElement} */ (note).hidden = true;
  for (const input of form.querySelectorAll("[aria-invalid]")) input.removeAttribute("aria-invalid");
}

/** @param {ApiError} error */
function show(error) {
  let first = null;
  for (const [name, texts] of Object.entries(error.fields ?? {})) {
    const [input, note] = [form.elements.namedItem(name), document.getElementById(`${name}-error`)];
    if (!(input instanceof HTMLInputElement) || !note) continue;
    input.setAttribute("aria-invalid", "true");
    say(note, [texts].flat().join(" "));
    first ??= input;
  }
  first?.focus();
  if (first) return;
  if (error.status === 401) {
    document.getElementById("password")?.setAttribute("aria-invalid", "true");
    const left = error.triesLeft;
    say(formError, `Email and password do not match.${left ? ` ${left} ${left === 1 ? "try" : "tries"} left.` : ""}`);
  } else {
    say(formError, error.message);
  }
}

/** @param {Record<string, string>} values what is empty and must not be */
function missing(values) {
  const fields = Object.fromEntries(["email", "password"].filter((name) => !values[name]).map((name) => [name, `The ${name} is missing.`]));
  return Object.keys(fields).length ? new ApiError(400, { code: "validation_error", fields }) : null;
}

form?.addEventListener("submit", async (event) => {
  event.preventDefault();
  clear();
  const values = Object.fromEntries([...new FormData(form)].map(([name, value]) => [name, String(value)]));
  const button = /** @type {HTMLButtonElement} */ (form.querySelector("[type=submit]"));
  const problem = missing(values);
  if (problem) return show(problem);
  button.disabled = true;
  try {
    if (form.dataset.page === "sign-up") {
      const { name, ...rest } = values;
      await api.register({ ...rest, ...(name.trim() && { name: name.trim() }), ...(query.get("invite") && { invite: query.get("invite") }) });
    } else {
      await api.login(values);
    }
    enter();
  } catch (error) {
    show(error instanceof ApiError ? error : new ApiError(0, { message: String(error) }));
  } finally {
    button.disabled = false;
  }
});

if (renewable()) renew().then((renewed) => renewed && enter(), () => {});

// The header's search: every page by name, alias and paper. Its index is loaded when it is first asked for.
"use strict";
{
  const own = document.currentScript ?? document.querySelector("script[data-root]"), root = own.dataset.root;
  const link = document.getElementById("find");
  const box = document.createElement("div"), input = document.createElement("input"), list = document.createElement("ul");
  box.className = "finder";
  Object.assign(input, { type: "search", placeholder: "Find…", autocomplete: "off", spellcheck: false });
  input.setAttribute("aria-label", "Find a suite, method, pair or paper");
  input.setAttribute("role", "combobox");
  input.setAttribute("aria-expanded", "false");
  input.setAttribute("aria-controls", "found");
  Object.assign(list, { id: "found", hidden: true });
  list.setAttribute("role", "listbox");
  list.setAttribute("aria-label", "Found");
  box.append(input, list);
  link.replaceWith(box);
  const plain = (text) => text.toLowerCase().replace(/[-_:>/,\s→]+/g, " ");
  const LITTLE = new Set(["to", "vs", "vs.", "versus", "against", "and"]); // words between names
  let index = null, compared = new Set(), at = -1;
  const load = () => {
    if (index) return;
    index = [];
    const script = document.createElement("script");
    script.src = `${root}static/index.js`;
    script.onload = () => {
      compared = new Set(versus.map((two) => two.join(" ")));
      index = pages.map(([title, kind, page, words]) => [title, kind, page, plain(title), plain(`${title} ${kind} ${words}`)]);
      look();
    };
    document.head.append(script);
  };
  const score = (name, all, words) => {
    let sum = 0;
    for (const word of words) {
      if (name === word) sum += 8;
      else if (name.startsWith(word)) sum += 4;
      else if (` ${name}`.includes(` ${word}`)) sum += 3;
      else if (` ${all}`.includes(` ${word}`)) sum += 2;
      else if (all.includes(word)) sum += 1;
      else return 0;
    }
    return sum;
  };
  // Where the first word stands: a title's own paper before one that only names it, a teacher before a student.
  const at0 = (all, words) => ` ${all}`.indexOf(` ${words[0]}`);
  const look = () => {
    const query = plain(input.value).trim(), words = query.split(" ").filter((word) => word && !LITTLE.has(word));
    const found = words.length
      ? index.map((entry) => [score(entry[3], entry[4], words), entry]).filter(([points]) => points)
        .sort(([a, one], [b, other]) => b - a || (one[1] === "source") - (other[1] === "source") || at0(one[4], words) - at0(other[4], words) || one[4].length - other[4].length).slice(0, 12)
      : [];
    // Two methods are a comparison, whatever stands between their names.
    const two = input.value.toLowerCase().split(/\s+|,(?![^(]*\))/).filter((word) => word && !LITTLE.has(word));
    const methods = index.filter((entry) => entry[1] === "method");
    const places = two.map((word) => methods.findIndex((entry) => entry[0].toLowerCase() === word));
    if (two.length === 2 && !places.includes(-1) && two[0] !== two[1]) {
      const [one, other] = places.map((place) => methods[place]).sort(([a], [b]) => (a < b ? -1 : 1));
      const page = `compare/${[one, other].map((entry) => entry[2].slice("methods/".length, -".html".length)).join("--")}.html`;
      // Those that share too little to have a page have one each.
      found.unshift(...(compared.has(`${Math.min(...places)} ${Math.max(...places)}`)
        ? [[0, [`${one[0]} against ${other[0]}`, "comparison", page]]] : [one, other].map((entry) => [0, entry])));
    }
    at = -1;
    list.replaceChildren(...found.map(([, [title, kind, page]], number) => {
      const item = document.createElement("li"), anchor = document.createElement("a"), what = document.createElement("small");
      item.id = `found-${number}`;
      item.setAttribute("role", "option");
      const [path, place] = page.split("#");
      anchor.href = root + path.split("/").map(encodeURIComponent).join("/") + (place ? `#${encodeURIComponent(place)}` : "");
      anchor.tabIndex = -1;
      what.textContent = ` ${kind}`;
      anchor.append(title, what);
      item.append(anchor);
      return item;
    }));
    if (words.length && !found.length && index.length) {
      const none = document.createElement("li");
      none.textContent = "Nothing is called that.";
      none.setAttribute("role", "option");
      none.setAttribute("aria-disabled", "true");
      list.append(none);
    }
    list.hidden = !list.children.length;
    input.setAttribute("aria-expanded", String(!list.hidden));
    input.removeAttribute("aria-activedescendant");
  };
  const choose = (step) => {
    const items = [...list.querySelectorAll("a")].map((anchor) => anchor.parentNode);
    if (!items.length) return;
    at = (at + step + items.length) % items.length;
    items.forEach((item, number) => item.setAttribute("aria-selected", String(number === at)));
    input.setAttribute("aria-activedescendant", items[at].id);
    items[at].scrollIntoView({ block: "nearest" });
  };
  input.addEventListener("focus", load);
  input.addEventListener("input", () => { load(); look(); });
  input.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") { event.preventDefault(); choose(event.key === "ArrowDown" ? 1 : -1); }
    else if (event.key === "Enter") list.querySelectorAll("a")[Math.max(at, 0)]?.click();
    else if (event.key === "Escape") { list.hidden = true; input.setAttribute("aria-expanded", "false"); }
  });
  box.addEventListener("focusout", (event) => { if (event.relatedTarget && !box.contains(event.relatedTarget)) { list.hidden = true; input.setAttribute("aria-expanded", "false"); } });
  document.addEventListener("click", (event) => { if (!box.contains(event.target)) { list.hidden = true; input.setAttribute("aria-expanded", "false"); } });
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && !/^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName)) { event.preventDefault(); input.focus(); }
  });
}

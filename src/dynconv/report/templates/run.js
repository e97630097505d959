// On a narrow screen the page would be twenty screens long: there, all sections but the first are closed until their title
// or a link to them is tapped. Without JavaScript, on wide screens and on paper all are open.

"use strict";

const sections = [...document.querySelectorAll("main details")];

function showTarget() {
  const target = location.hash && document.getElementById(location.hash.slice(1));
  const section = target && target.querySelector("details");
  if (!section || section.open) return;
  section.open = true;
  target.scrollIntoView();
}

if (matchMedia("(max-width: 40rem)").matches) {
  for (const each of sections.slice(1)) each.open = false;
  showTarget();
  addEventListener("hashchange", showTarget);
}

let closed = [];
addEventListener("beforeprint", () => {
  closed = sections.filter((each) => !each.open);
  for (const each of closed) each.open = true;
});
addEventListener("afterprint", () => {
  for (const each of closed) each.open = false;
});

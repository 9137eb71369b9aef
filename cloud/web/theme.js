// Light or dark: as the system says, until someone chooses.

const KEY = "isthmus.theme";
const ORDER = ["system", "light", "dark"];
const NAMES = {system: "as the system", light: "light", dark: "dark"};

function apply(button, choice) {
  if (choice === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = choice;
  const text = `Colours: ${NAMES[choice]}`;
  button.setAttribute("aria-label", text);
  button.title = text;
}

export function startTheme(button) {
  let choice = localStorage.getItem(KEY);
  if (!ORDER.includes(choice)) choice = "system";
  apply(button, choice);
  button.addEventListener("click", () => {
    choice = ORDER[(ORDER.indexOf(choice) + 1) % ORDER.length];
    localStorage.setItem(KEY, choice);
    apply(button, choice);
    document.dispatchEvent(new Event("theme"));
  });
}

// What can be scrolled can be reached by the keyboard.
document.addEventListener("DOMContentLoaded", () => {
  const scrolled = ".md-typeset__scrollwrap, .highlight-ipynb, .md-typeset pre";
  for (const each of document.querySelectorAll(scrolled)) each.tabIndex = 0;
});

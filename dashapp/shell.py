"""The HTML around the page: what must be there before the first paint."""

from __future__ import annotations

INDEX = """<!DOCTYPE html>
<html lang="en">
    <head>
        {%metas%}
        <title>{%title%}</title>
        {%favicon%}
        {%css%}
        <script>
(function () {
  // Light or dark, before anything is painted; assets/theme.js changes it later.
  let chosen = "auto";
  try { chosen = localStorage.getItem("headatlas-theme") || chosen; } catch (refused) {}
  const dark = chosen === "auto" ? matchMedia("(prefers-color-scheme: dark)").matches
                                 : chosen === "dark";
  Object.assign(document.documentElement.dataset,
                { theme: chosen, bsTheme: dark ? "dark" : "light" });
})();
        </script>
    </head>
    <body>
        <noscript>Head Atlas draws its charts with JavaScript, which is off in this browser: turn it
        on for this page.</noscript>
        {%app_entry%}
        <footer>
            {%config%}
            {%scripts%}
            {%renderer%}
        </footer>
    </body>
</html>
"""
"""Dash's own frame of a page, with a language and the colours of the last visit."""

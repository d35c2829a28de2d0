// Answers that the page waits for. While one is under way <html> has the class "waiting": a thin bar
// shows after a moment (style.css). Where the server does not answer, the page says so and asks the
// same again until it does; Dash itself would give up and say nothing.
(function () {
  const AGAIN = 2000, AWAY = [502, 503, 504];
  const root = document.documentElement, original = window.fetch.bind(window);
  let waiting = 0, away = 0, leaving = false;

  const pause = (ms) => new Promise((done) => setTimeout(done, ms));
  const isAnswer = (url) => String((url && url.url) || url).includes("_dash-update-component");

  function count(change) {
    waiting += change;
    root.classList.toggle("waiting", waiting > 0);
  }

  function say(change) {
    away += change;
    let place = document.getElementById("away");
    if (!place) {
      place = document.createElement("div");
      Object.assign(place, { id: "away", hidden: true });
      place.setAttribute("role", "alert");
      document.body.append(place);
    }
    const words = away ? "The server does not answer. Trying again until it does; what you did is "
      + "not lost." : "";
    if (place.textContent !== words) place.textContent = words;
    place.hidden = !away;
  }

  async function insist(url, options) {
    let said = false;
    try {
      for (;;) {
        try {
          const answer = await original(url, options);
          if (!AWAY.includes(answer.status)) return answer;
        } catch (lost) {
          if (leaving || lost.name === "AbortError") throw lost;
        }
        if (!said) { said = true; say(1); }
        await pause(AGAIN);
      }
    } finally {
      if (said) say(-1);
    }
  }

  window.addEventListener("pagehide", () => { leaving = true; });
  window.addEventListener("pageshow", () => { leaving = false; });
  window.fetch = async function (url, options) {
    if (!isAnswer(url)) return original(url, options);
    count(1);
    try {
      return await insist(url, options);
    } finally {
      count(-1);
    }
  };
})();

"""The conversation in short."""

from chatapp.commands import Ask, Say, View

HELP = "/summarize [WHAT]: has the model sum up what was said so far; WHAT says what matters, or how long"
PROMPT = (
    "Summarize our conversation so far. Begin with its main point in one sentence, then list what was asked, what was found "
    "out or decided, and what is still open. Keep names, numbers and code as they were said. Add nothing that was not said."
)


def run(view: View) -> Say | Ask:
    if not view.has_history:
        return Say("There is nothing to summarize yet.")
    return Ask(f"{PROMPT}\n\nMind this: {view.arguments}" if view.arguments else PROMPT)

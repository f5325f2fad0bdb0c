"""What the conversation is called."""

from chatapp.commands import Changes, Say, View

HELP = "/title [TEXT]: shows or sets what this conversation is called"
MOST_CHARS = 200


def run(view: View) -> Say:
    title = " ".join(view.arguments.split())
    if not title:
        return Say(
            f"This conversation is called: {view.title}" if view.title else "This conversation has no title yet."
        )
    if len(title) > MOST_CHARS:
        return Say(f"A title has at most {MOST_CHARS} characters; this one has {len(title)}. Nothing was changed.")
    return Say(f"This conversation is now called: {title}", Changes({"title": title}))

"""What the model is told first."""

from chatapp.commands import Changes, Say, View

HELP = "/system [TEXT|off]: shows or sets what models are told first in this conversation; `off`: the site's own words"
MOST_CHARS = 8000


def run(view: View) -> Say:
    if not view.arguments:
        return shown(view)
    if view.arguments.lower() == "off":
        return Say(
            f"From now on the site's own words:{quoted(view.usual_system_prompt)}", Changes({"system_prompt": None})
        )
    if len(view.arguments) > MOST_CHARS:
        return Say(
            f"A system prompt has at most {MOST_CHARS} characters; this one has {len(view.arguments)}. Nothing was changed."
        )
    return Say(
        f"From now on models are told first:{quoted(view.arguments)}", Changes({"system_prompt": view.arguments})
    )


def shown(view: View) -> Say:
    if view.system_prompt:
        return Say(f"Models are told first in this conversation:{quoted(view.system_prompt)}")
    return Say(f"Models are told first, here as everywhere:{quoted(view.usual_system_prompt)}")


def quoted(text: str) -> str:
    return "\n\n" + "\n".join(f"> {line}".rstrip() for line in text.splitlines()) if text else " nothing."

"""Begin anew in the same conversation."""

from chatapp.commands import Changes, Say, View

HELP = "/clear: begins anew; models are told nothing of what was said before, and nothing is deleted"


def run(view: View) -> Say:
    return Say(
        "What was said before is set aside: models are told nothing of it from here on. It is kept as another branch of "
        "this conversation.",
        Changes(new_root=True),
    )

"""What commands there are."""

from chatapp.commands import Say, View, listed

HELP = "/help: this list"


def run(view: View) -> Say:
    return Say(
        f"These commands are carried out by the site:\n\n{listed(view.help)}\n\n"
        "A prompt that begins with two slashes is sent to the model, with one of them."
    )

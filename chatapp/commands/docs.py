"""Which documents are searched."""

from chatapp.commands import Say, View

HELP = "/docs: shows the documents that are searched for answers here"


def run(view: View) -> Say:
    return Say(
        "There are no documents yet, so none are searched here. They will be added to a project, as PDF, DOCX, TXT, Markdown, "
        "HTML or CSV; this version of the site takes none. Until then, paste the passage that matters into a question."
    )

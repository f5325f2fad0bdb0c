"""The conversation as a file."""

from chatapp.commands import Say, View

HELP = "/export: gives links to this conversation as Markdown, PDF and JSON"
FORMATS = {"markdown": "Markdown", "pdf": "PDF", "json": "JSON, with all branches"}


def run(view: View) -> Say:
    address = f"{view.site_url}/api/chat/conversations/{view.conversation_id}/export?format="
    links = [f"- [{name}]({address}{value})" for value, name in FORMATS.items()]
    return Say("\n".join(["This conversation as a file:", "", *links]))

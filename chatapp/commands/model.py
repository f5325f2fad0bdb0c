"""Which model is asked."""

from chatapp.commands import Changes, Say, View
from chatapp.errors import AppError

HELP = "/model [NAME]: shows which model is asked in this conversation and which there are, or chooses another"
MOST = 50


def run(view: View) -> Say:
    if view.arguments:
        return chosen(view)
    models = view.models()
    lines = [f"Asked here: {f'`{view.model}`' if view.model else 'the usual model'}."]
    if models:
        lines += ["", "There are:", "", *(f"- `{name}`" for name in models[:MOST])]
    else:
        lines += ["There is no model to choose from."]
    if len(models) > MOST:
        lines += [f"- and {len(models) - MOST} more"]
    return Say("\n".join(lines))


def chosen(view: View) -> Say:
    try:
        model = view.find_model(view.arguments)
    except AppError as error:
        return Say(f"{error.message.removeprefix('model: ')} Nothing was changed.")
    return Say(f"From now on `{model}` is asked in this conversation.", Changes({"model": model}))

"""What gunicorn serves. The patches come first: what is imported before them would block the event loop for ever."""

from gevent import monkey

monkey.patch_all()

from app import create_app  # noqa: E402

app = create_app()

"""What gunicorn serves. The patches come first: what is imported before them would block the event loop for ever."""

import gc

from gevent import monkey

monkey.patch_all()
gc.disable()  # what is imported stays: to look through it again and again is a fifth of the start

from app import create_app  # noqa: E402

app = create_app()
gc.enable()

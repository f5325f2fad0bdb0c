"""Builds of the site for tests only, each with a guard taken away or a fault put in; gunicorn serves them by name."""

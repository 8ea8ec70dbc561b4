from gevent import monkey; monkey.patch_all()  # fmt: skip  # noqa: E702, I001

"""gunicorn's configuration: `gunicorn -c deploy/gunicorn.conf.py relay.wsgi:app` does what `relay
serve` does.

There is nothing to edit here. The settings are RELAY_* variables and relay.toml, and gunicorn's own
settings are in relay/api/serving.py."""

from relay.api.server_settings import accept_or_exit  # noqa: E402
from relay.api.serving import gunicorn_settings  # noqa: E402

globals().update(gunicorn_settings(accept_or_exit()))

"""Pages over HTTP, as a probe or a scrape gets them."""

import base64
import urllib.error
import urllib.request


def get(url: str, token: str = "") -> tuple[int, str]:
    """Return status and body, 0 if nothing listens. ``token`` is a password, of any user."""
    head = {"Authorization": f"Basic {base64.b64encode(f'any:{token}'.encode()).decode()}"} if token else {}
    try:
        request = urllib.request.Request(url, headers=head)  # noqa: S310 - http, to ourselves
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - the same
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError:
        return 0, ""

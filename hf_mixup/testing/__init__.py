"""A local Hub server, for tests and for trying Hub commands without a network.

with LocalHub(folder) as hub:
    api = HfApi(endpoint=hub.url, token=hub.token)
    hub.faults.add(method="POST", path="/commit/", status=503, times=1)
"""

try:
    import starlette  # noqa: F401
    import uvicorn  # noqa: F401
except ImportError as error:
    raise ImportError(f"hf_mixup.testing requires {error.name}: pip install 'hf_mixup[testing]'") from error

from .accounts import Accounts
from .faults import Fault, Faults, Request
from .server import LocalHub
from .store import Store

__all__ = ["Accounts", "Fault", "Faults", "LocalHub", "Request", "Store"]

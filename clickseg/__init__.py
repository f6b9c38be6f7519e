"""Train and evaluate models that take prompts. Everything except the help needs PyTorch."""

from clicksim.errors import ClicksimError

NO_TORCH = "clickseg needs PyTorch: pip install 'clicksim[torch]'"


def require_torch() -> None:
    """Import PyTorch.

    Raises:
        ClicksimError: PyTorch is not installed.
    """
    try:
        import torch as _torch  # noqa: F401
    except ImportError as error:
        raise ClicksimError(NO_TORCH) from error

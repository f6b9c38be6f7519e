"""The Torch module that trains, infers and evaluates on prompts."""

try:
    import torch as _torch  # noqa: F401
except ImportError as error:
    raise ImportError("clickseg needs PyTorch: pip install 'clicksim[torch]'") from error

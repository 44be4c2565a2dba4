"""transformers and PEFT in float64 throughout.

transformers computes RMSNorm, the rotary tables and softmax in float32 whatever the model's dtype,
without which nothing could agree to 1e-9. Inside `with Float64():` whatever asks for float32 gets
float64, in models that are built there and in what they compute. Files are read outside of it.
"""

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode


class Float64(TorchFunctionMode):
    """Whatever asks for float32 gets float64."""

    def __enter__(self):
        self.default = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        return super().__enter__()

    def __exit__(self, *error):
        torch.set_default_dtype(self.default)
        return super().__exit__(*error)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        def wide(value):
            return torch.float64 if value is torch.float32 else value

        if function is torch.Tensor.float:
            function = torch.Tensor.double
        kwargs = {key: wide(value) for key, value in (kwargs or {}).items()}
        return function(*map(wide, args), **kwargs)


class NoFloat32(TorchDispatchMode):
    """Fails where an operation, in the backward pass too, yields anything narrower than float64."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                assert value.dtype == torch.float64, f"{function} is computed in {value.dtype}"
        return result

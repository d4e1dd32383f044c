"""``patch`` and ``unpatch`` of a package: a layer replaced by each recipe, called, put back."""

import importlib
import warnings
from types import ModuleType

__all__ = ["smoke"]

ROWS, COLS, OUT = 4, 128, 64
#: Layers of normal numbers are off by less than this share under any recipe: 4 bits are by 0.1.
MOST_OFF = 0.25


def smoke(package: ModuleType, device: str) -> int:
    """Patch a linear layer with every recipe; returns how many calls.

    Raises:
        ValueError: a patched layer is off by more than its codes explain.
    """
    if "patch" not in package.__all__:
        return 0
    import torch

    inside = importlib.import_module(f"{package.__name__}._linear_recipes")
    dtypes = importlib.import_module(f"{package.__name__}._torch_device").DTYPES
    recipes, _ = inside.linear_recipes()
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(ROWS, COLS, generator=generator)
    for name, recipe in recipes.items():
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(COLS, OUT))
        model = model.to(device, dtypes[recipe.dtypes[0]]).eval()
        x = drawn.to(device, dtypes[recipe.dtypes[0]])
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of extents that were never tuned
            plain = model(x).double()
            package.patch(model, name)
            off = float((model(x).double() - plain).norm() / plain.norm())
            package.unpatch(model)
            if not (off < MOST_OFF and torch.equal(model(x).double(), plain)):
                raise ValueError(f"a layer patched with {name} is off by {off:.3f} of its output")
    return len(recipes)

"""The namespace of this package's operators: the name that the package was imported under."""


def add_op_namespace_prefix(op_name: str) -> str:
    """An operator's name as ``torch.library`` takes it: several packages may be loaded at once."""
    return str(__package__).replace(".", "_") + "::" + op_name

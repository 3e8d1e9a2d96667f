"""Everything that can go wrong and is not a bug, as a tree:

FlowmlError
├── UsageError          a command line that makes no sense                     exit 2
├── ConfigError         a settings file, or a setting, that cannot be used     exit 2
├── InputError          a file of the user's that cannot be read or understood exit 3
│   ├── DatasetError    training data
│   └── ModelError      a model, its labels or its contract
├── OutputError         a file or stream that cannot be written                exit 4
├── PrivilegeError      rights that are missing, or that could not be given up exit 5
├── InterfaceError      a network interface that is not there, not fit, taken  exit 6
└── KernelError         the kernel or the compiler refused                     exit 7
    └── AbiError        the compiled program and the Python side disagree

A message is one line: what failed, with the values; then what to do next. The command line prints it and
exits with `exit_code`; it never shows a traceback for one of these.
"""


class FlowmlError(Exception):
    """Something that the user can do something about."""

    exit_code = 1


class UsageError(FlowmlError):
    """The command line makes no sense."""

    exit_code = 2


class ConfigError(FlowmlError):
    """A settings file, or one setting, cannot be used."""

    exit_code = 2


class InputError(FlowmlError):
    """A file of the user's cannot be read or understood."""

    exit_code = 3


class DatasetError(InputError):
    """Training data cannot be read or is not fit to train on."""


class ModelError(InputError):
    """A model, its labels or its contract cannot be used."""


class OutputError(FlowmlError):
    """A file or stream cannot be written."""

    exit_code = 4


class PrivilegeError(FlowmlError):
    """Rights are missing, or could not be given up."""

    exit_code = 5


class InterfaceError(FlowmlError):
    """A network interface is not there, not fit, or taken."""

    exit_code = 6


class KernelError(FlowmlError):
    """The kernel or the compiler refused."""

    exit_code = 7


class AbiError(KernelError):
    """The compiled program and the Python side disagree about the layout of a record."""

import signal

import nnabla as nn
import pytest

from common import cli


@pytest.fixture
def command(capsys):
    """Run the `main` of a script in this process; returns exit status, stdout and stderr."""
    before = signal.getsignal(signal.SIGTERM)

    def run(main, *arguments):
        nn.clear_parameters()
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            cli.run(lambda: main([str(argument) for argument in arguments]))
        return caught.value.code or 0, *capsys.readouterr()

    yield run
    nn.clear_parameters()
    signal.signal(signal.SIGTERM, before)

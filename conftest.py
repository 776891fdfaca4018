"""What all tests need."""
import nnabla as nn
import pytest


@pytest.fixture(autouse=True)
def no_parameters():
    """Every test starts and ends without parameters."""
    nn.clear_parameters()
    yield
    nn.clear_parameters()


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory):
    """Tests leave the user's cache alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SONY_PAPERS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield

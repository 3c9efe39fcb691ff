"""The shipped model behind one server for all tests that leave it as it was."""
import pytest

from weir_program import MODEL, Server


def model_files():
    return sorted(MODEL.glob("*.safetensors"))


@pytest.fixture(scope="session")
def shipped():
    """The folder of the shipped model. A checkout without its weights skips; one with them never does."""
    if not model_files():
        pytest.skip(f"{MODEL} holds no weights")
    return MODEL


@pytest.fixture(scope="session")
def server(shipped):
    with Server(shipped) as running:
        yield running


@pytest.fixture(scope="session")
def plain(shipped):
    """Neither reuse nor drafts: what every other server's answers are compared with."""
    with Server(shipped, "--no-enable-prefix-caching") as running:
        yield running


@pytest.fixture
def launch(shipped):
    """Starts servers with flags of their own."""
    running = []

    def start(*flags, model=shipped):
        running.append(Server(model, *flags))
        return running[-1]

    yield start
    for one in running:
        one.close()

"""Every flag of the published training, with its default; and what contradicts itself."""
import attrs
import pytest

from common.machine.files import beside_scripts
from common.runs.config import load_section, overrides_of, section_names
from x_umx import train
from x_umx.config import Config

CFG = beside_scripts("x_umx", "train.cfg")
SOURCES = ("bass", "drums", "vocals", "other")
PUBLISHED = {
    "root": None, "source": "vocals", "sources": SOURCES, "umx-train": False, "epochs": 1000, "batch-size": 16,
    "lr": 0.001, "patience": 140, "lr-decay-patience": 80, "lr-decay-gamma": 0.3, "weight-decay": 1e-5, "seed": 42,
    "seq-dur": 6.0, "unidirectional": False, "nfft": 4096, "nhop": 1024, "hidden-size": 512, "bandwidth": 16000,
    "nb-channels": 2, "sample-rate": 44100, "mcoef": 10.0, "valid_dur": 10.0, "is-wav": False, "samples-per-track": 64,
    "source-augmentations": ("gain", "channelswap")}
OTHER = {
    "root": "somewhere", "source": "bass", "sources": "vocals other", "umx-train": None, "epochs": 1, "batch-size": 2,
    "lr": 0.5, "patience": 3, "lr-decay-patience": 4, "lr-decay-gamma": 0.25, "weight-decay": 1e-3, "seed": 6,
    "seq-dur": 7.5, "unidirectional": None, "nfft": 8192, "nhop": 512, "hidden-size": 8, "bandwidth": 9000,
    "nb-channels": 1, "sample-rate": 48000, "mcoef": 1.5, "valid_dur": 100.0, "is-wav": None, "samples-per-track": 16,
    "source-augmentations": "gain"}


def config(*flags, section="XUMX"):
    args = train.parse_args([section, *map(str, flags)])
    return load_section(Config, CFG, section, overrides_of(args, Config))


@pytest.mark.parametrize("name, default", PUBLISHED.items())
def test_the_published_flag_has_its_default(name, default):
    assert getattr(config(), name.replace("-", "_")) == default


@pytest.mark.parametrize("name, value", OTHER.items())
def test_the_published_flag_is_there(name, value):
    flags = [] if value is None else str(value).split()
    found = getattr(config(f"--{name}", *flags), name.replace("-", "_"))
    wanted = True if value is None else tuple(flags) if isinstance(found, tuple) else value
    assert found == wanted != PUBLISHED[name]


def test_flags_for_where_to_compute_and_to_write():
    args = train.parse_args(["--output", "there", "--device-id", "1", "--context", "cudnn"])
    assert (args.output, args.device_id, args.context) == ("there", "1", "cudnn")
    args = train.parse_args(["-o", "there", "-d", "1", "-c", "cudnn"])
    assert (args.output, args.device_id, args.context) == ("there", "1", "cudnn")


def test_the_section_of_the_paper_is_the_published_recipe():
    assert config() == config(section="DEFAULT") == Config()
    assert config(section="UMX") == Config(umx_train=True)


@pytest.mark.parametrize("section", section_names(CFG))
def test_every_section_describes_a_network(section):
    cfg = config(section=section)
    assert cfg.umx_train == (section in ("UMX", "SYNTHETIC_UMX"))
    assert cfg.targets == (("vocals",) if cfg.umx_train else SOURCES)
    roots = {"SYNTHETIC": "synthetic", "SMALL": "synthetic-band"}
    assert attrs.asdict(cfg)["root"] == roots.get(section)


def test_the_published_sizes():
    sizes = Config().sizes
    assert (sizes.n_fft, sizes.max_bin, sizes.bins, sizes.hidden_size, sizes.lstm_size) == (4096, 1487, 2049, 512, 256)
    assert Config(unidirectional=True).sizes.lstm_size == 512


def test_the_network_is_as_the_keys_say():
    network = Config(dropout=0.1, crossing=False, sources="vocals bass", nhop=512).network
    assert (network.hop_length, network.dropout, network.crossing) == (512, 0.1, False)
    assert network.sources == ("vocals", "bass")
    assert Config(umx_train=True, nhop=512, dropout=0.2).network.dropout == 0.2


@pytest.mark.parametrize("section", ["XUMX", "UMX"])
def test_umx_is_chosen_by_section_or_flag(section):
    flags = ("--umx-train",) if section == "XUMX" else ()
    assert config(*flags, section=section).umx_train


@pytest.mark.parametrize("values, says", [
    ({"nfft": 1023}, "must be even"), ({"hidden_size": 31}, "must be even"), ({"nhop": 1000}, "must divide"),
    ({"nhop": 2048}, "3 parts or more"), ({"umx_train": True, "source": "piano"}, "'piano' is none of"),
    ({"sources": ("vocals",)}, "two sources"), ({"sources": ("vocals", "vocals")}, "different names"),
    ({"nb_channels": 3}, "from 1 to 2"), ({"dropout": 1}, "dropout"), ({"valid_dur": 0}, "valid_dur"),
    ({"lr": 0}, "lr"), ({"batch_size": 0}, "batch_size"), ({"mcoef": -1}, "mcoef")])
def test_what_makes_no_sense_is_refused(values, says):
    with pytest.raises(ValueError, match=says):
        Config(**values)

"""Every flag of the published trainings, with its default; and what contradicts itself."""
import attrs
import pytest

from common.machine.errors import UsageError
from common.machine.files import beside_scripts
from common.runs.config import load_section, overrides_of, section_names
from d3net import train
from d3net.hyperparameters import load_mss, load_segmentation
from d3net.music.config import SOURCES, MSSConfig
from d3net.scenes.config import SegmentationConfig

CLASSES = {"mss": MSSConfig, "segmentation": SegmentationConfig}
# Published default, another value.
MSS_FLAGS = {
    "target": ("vocals", "bass"), "root": (None, "somewhere"), "epochs": (50, 1), "batch-size": (6, 2),
    "lr": (0.001, 0.5), "seed": (42, 6), "weight-decay": (1e-4, 1e-3), "seq-dur": (6.0, 7.5), "is-wav": (False, True),
    "samples-per-track": (64, 16), "source-augmentations": (("gain", "channelswap"), ("gain",)), "nfft": (-1, 8192),
    "nhop": (-1, 512)}
SECTIONS = [(task, section) for task in CLASSES for section in section_names(beside_scripts("d3net", f"{task}.cfg"))]


def config(task, *flags, section=None):
    args = train.parse_args([task, "-c", "auto", *([section] if section else []), *map(str, flags)])
    path = beside_scripts("d3net", args.cfg)
    return load_section(CLASSES[task], path, args.experiment, overrides_of(args, CLASSES[task]))


@pytest.mark.parametrize("name", MSS_FLAGS)
def test_the_published_flag_of_music_training_has_its_default_and_an_effect(name):
    default, other = MSS_FLAGS[name]
    key = name.replace("-", "_")
    assert getattr(config("mss"), key) == default
    given = [] if other is True else other if isinstance(other, tuple) else [other]
    assert getattr(config("mss", f"--{name}", *given), key) == other != default


def test_lengths_of_frames_are_those_of_the_hyper_parameters_unless_given():
    hparams = load_mss("vocals")
    assert config("mss").resolved(hparams) == hparams
    changed = config("mss", "--nfft", 8192, "--nhop", 2048).resolved(hparams)
    assert (changed.fft_size, changed.hop_size, changed.bins) == (8192, 2048, 4097)
    with pytest.raises(UsageError, match="a spectrum has 513 bins"):
        config("mss", "--nfft", 1024).resolved(hparams)


@pytest.mark.parametrize("flags", [
    ("-cfg", "D3Net_S", "-p", "some.h5", "-r", "--log-interval", "7", "-c", "cpu", "--output-dir", "there"),
    ("--config-file", "D3Net_S", "--pretrained", "some.h5", "--recompute", "--log-interval", "7", "--context", "cpu",
     "-o", "there")], ids=["short", "long"])
def test_the_published_flags_of_segmentation(flags):
    cfg, args = config("segmentation", *flags), train.parse_args(["segmentation", *flags])
    assert (cfg.hparams, cfg.pretrained, cfg.recompute, cfg.log_interval) == ("D3Net_S", "some.h5", True, 7)
    assert (args.output, args.context, args.cfg) == ("there", "cpu", "segmentation.cfg")


def test_the_published_defaults_of_segmentation():
    cfg = config("segmentation", "-p", "None")
    assert (cfg.hparams, cfg.pretrained, cfg.recompute, cfg.log_interval) == ("D3Net_L", None, False, 50)
    resolved = cfg.resolved(load_segmentation(cfg.hparams))
    assert resolved == load_segmentation("D3Net_L")
    assert (resolved.max_iter, resolved.batch_size, resolved.lr, resolved.momentum) == (80000, 8, 0.01, 0.9)


def test_flags_change_what_the_hyper_parameters_say_of_the_training():
    values = {"max_iter": 3, "batch_size": 2, "image_height": 64, "image_width": 96, "lr": 0.5, "min_lr": 0.0,
              "power": 2.0, "momentum": 0.0, "weight_decay": 0.0, "save_interval": 1}
    flags = [part for key, value in values.items() for part in (f"--{key.replace('_', '-')}", value)]
    resolved = config("segmentation", *flags).resolved(load_segmentation("D3Net_S"))
    assert {key: getattr(resolved, key) for key in values} == values
    with pytest.raises(UsageError, match="batch_size = 0"):
        config("segmentation", "--batch-size", 0).resolved(load_segmentation("D3Net_S"))


def test_flags_for_where_to_compute():
    for task in CLASSES:
        args = train.parse_args([task, "--device-id", "1", "--context", "cudnn"])
        assert (args.device_id, args.context) == ("1", "cudnn")
        assert train.parse_args([task, "-d", "1"]).device_id == "1"


@pytest.mark.parametrize("task, section", SECTIONS, ids="-".join)
def test_every_section_has_hyper_parameters(task, section):
    cfg = config(task, section=section)
    if task == "mss":
        cfg.resolved(load_mss(cfg.hparams or cfg.target))
        assert cfg.target == (section if section in SOURCES else "vocals")
    else:
        cfg.resolved(load_segmentation(cfg.hparams))
        assert cfg.hparams == {"DEFAULT": "D3Net_L", "SYNTHETIC": "tiny"}.get(section, section)


@pytest.mark.parametrize("section", SOURCES)
def test_a_section_for_each_target_is_the_published_recipe(section):
    assert config("mss", section=section) == MSSConfig(target=section)
    assert config("mss", "--target", section) == MSSConfig(target=section)


@pytest.mark.parametrize("section", ["D3Net_L", "D3Net_S"])
def test_a_section_for_each_network_is_the_published_recipe(section):
    assert config("segmentation", section=section) == SegmentationConfig(hparams=section)


@pytest.mark.parametrize("target, sources", [
    ("vocals", ["vocals"]), ("other", ["other"]), ("accompaniment", ["drums", "bass", "other"])])
def test_the_target_is_a_sum_of_sources(target, sources):
    assert MSSConfig(target=target).target_sources == sources


@pytest.mark.parametrize("values, says", [
    ({"target": "piano"}, "'piano' is none of vocals"), ({"target": "accompaniment", "sources": "vocals"}, "no source"),
    ({"target": "vocals", "sources": "drums bass"}, "'vocals' is none of"), ({"seq_dur": 0}, "seq_dur"),
    ({"epochs": 0}, "epochs"), ({"lr": -1}, "lr"), ({"patch_length": -1}, "patch_length")])
def test_what_makes_no_sense_is_refused(values, says):
    with pytest.raises(ValueError, match=says):
        MSSConfig(**values)


def test_all_keys_have_a_help():
    for cls in CLASSES.values():
        assert all(field.metadata["help"] for field in attrs.fields(cls))

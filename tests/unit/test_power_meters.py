"""
Power sources tell readings, and a meter that may not be read is an error, never a zero.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tokenworks.adapters.power_meters.modelled import ModelledPower, cpu_time_of
from tokenworks.adapters.power_meters.nvml import Nvml
from tokenworks.adapters.power_meters.powercap import Powercap
from tokenworks.adapters.power_meters.prometheus_text import PrometheusText, fetch_text
from tokenworks.adapters.power_meters.replay import PowerReplay
from tokenworks.adapters.power_meters.vllm_text import VllmText
from tokenworks.cli import factory as cli_factory
from tokenworks.cli.main import app
from tokenworks.factory.energy.model import PowerSeries, Quantity, Rules
from tokenworks.factory.energy.power_file import read_power_file, to_cells, to_header
from tokenworks.factory.energy.validation import validate
from tokenworks.factory.errors import PowerSourceError
from tokenworks.factory.ports import PowerSource
from tokenworks.foundation.clock import FakeClock

START = datetime(2026, 1, 1, tzinfo=UTC)
START_US = 1_767_225_600_000_000
DCGM_TEXT = """\
# HELP DCGM_FI_DEV_POWER_USAGE Power draw (in W).
# TYPE DCGM_FI_DEV_POWER_USAGE gauge
DCGM_FI_DEV_POWER_USAGE{gpu="0",UUID="GPU-a",pod="x"} 71.532
DCGM_FI_DEV_POWER_USAGE{gpu="0",UUID="GPU-a",pod="y"} 71.532
DCGM_FI_DEV_POWER_USAGE{gpu="1",UUID="GPU-b"} NaN
"""
DCGM_COUNTERS = """\
# TYPE DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION counter
DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{gpu="0",UUID="GPU-a"} 5000123
DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{gpu="1",UUID="GPU-b"} 7 1767225599500
"""


class NotSupportedError(RuntimeError):
    pass


class FakeNvml:
    """
    What ``pynvml`` answers for two GPUs, the second perhaps too old for a counter.
    """

    NVMLError: type[Exception] = RuntimeError
    NVMLError_NotSupported: type[Exception] = NotSupportedError

    def __init__(self, *, gpus: int = 2, old: int | None = None) -> None:
        self.gpus = gpus
        self.old = old
        self.is_broken = False

    def nvmlInit(self) -> None:  # noqa: N802 - NVML's name
        """
        Answer, or fail as without a driver.
        """
        if self.is_broken:
            raise RuntimeError("Driver Not Loaded")

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802 - NVML's name
        """
        Return how many there are.
        """
        return self.gpus

    def nvmlDeviceGetHandleByIndex(self, index: int) -> object:  # noqa: N802 - NVML's name
        """
        Return its index.
        """
        return index

    def nvmlDeviceGetUUID(self, handle: object) -> str:  # noqa: N802 - NVML's name
        """
        Return its name.
        """
        return f"GPU-{handle}"

    def nvmlDeviceGetPowerUsage(self, handle: object) -> int:  # noqa: N802 - NVML's name
        """
        Return milliwatts.
        """
        if self.is_broken:
            raise RuntimeError("GPU is lost")
        return 71_532

    # NVML's own name; the line is too long for its reason.
    def nvmlDeviceGetTotalEnergyConsumption(self, handle: object) -> int:  # noqa: N802
        """
        Return millijoules.
        """
        if handle == self.old:
            raise NotSupportedError("Not Supported")
        if self.is_broken:
            raise RuntimeError("GPU is lost")
        return 5_000_123


def clock() -> FakeClock:
    """
    Return a clock at the start of 2026.
    """
    return FakeClock(START)


def powercap(folder: Path) -> Path:
    """
    Make a tree as the kernel does for two packages with cores, memory and the whole board.
    """
    zones = {
        "intel-rapl:0": ("package-0", 262_143_328_850),
        "intel-rapl:0:0": ("core", 262_143_328_850),
        "intel-rapl:0:1": ("dram", 65_712_999_613),
        "intel-rapl:1": ("package-1", 262_143_328_850),
        "intel-rapl:2": ("psys", 262_143_328_850),
        "intel-rapl-mmio:0": ("package-0", 262_143_328_850),
    }
    for number, (zone, (name, most)) in enumerate(zones.items()):
        place = folder / zone
        place.mkdir()
        (place / "name").write_text(f"{name}\n")
        (place / "max_energy_range_uj").write_text(f"{most}\n")
        (place / "energy_uj").write_text(f"{1_000 + number}\n")
    return folder


def sources(folder: Path) -> dict[str, PowerSource]:
    """
    Return one of each kind.
    """
    return {
        "powercap": Powercap(clock(), powercap(folder)),
        "dcgm": PrometheusText(clock(), lambda: DCGM_TEXT + DCGM_COUNTERS),
        "nvml": Nvml(clock(), FakeNvml()),
        "model": ModelledPower(clock(), lambda: 2.0, name="demo", tdp_w=100, cores=4),
    }


def test_every_source_is_recorded_and_read_again_the_same(tmp_path: Path) -> None:
    """
    Through the port: what a source tells, written to a file, read and replayed, is the same.
    """
    for name, source in sources(tmp_path).items():
        readings = source.read()
        assert len({one.device for one in readings}) == len(readings) > 0, name
        ranges = source.counter_ranges_uj
        rows = [to_header(readings[0].quantity)]
        rows += [to_cells(one, ranges.get(one.device)) for one in readings]

        series = read_power_file([",".join(row) + "\n" for row in rows], name)

        assert [(one.at_us, one.device, one.quantity, one.value) for one in series.readings] == [
            (one.at_us, one.device, one.quantity, one.value) for one in readings
        ]
        assert series.counter_ranges_uj == ranges


def test_replay_tells_one_moment_at_a_time() -> None:
    """
    Readings of one time come together, then nothing comes.
    """
    text = ["time,device,watts\n", "1,a,5\n", "1,b,6\n", "2,a,7\n"]
    replay = PowerReplay(read_power_file(text, "power.csv"))

    told = [[one.device for one in replay.read()] for _ in range(3)]

    assert told == [["a", "b"], ["a"], []]
    assert replay.counter_ranges_uj == {}


def test_powercap_counts_packages_and_memory_once(tmp_path: Path) -> None:
    """
    Cores are in their package, packages in psys, and mmio is the package again.
    """
    source = Powercap(clock(), powercap(tmp_path))

    readings = {one.device: one for one in source.read()}

    assert set(readings) == {
        "intel-rapl:0 package-0",
        "intel-rapl:0:1 dram",
        "intel-rapl:1 package-1",
    }
    package = readings["intel-rapl:0 package-0"]
    assert (package.value, package.at_us, package.quantity) == (1_000, START_US, Quantity.COUNTER)
    assert source.counter_ranges_uj["intel-rapl:0:1 dram"] == 65_712_999_613


def test_powercap_counter_that_wraps_is_counted_on(tmp_path: Path) -> None:
    """
    From the files to the energy: the kernel's range lets a wrap be told from a reset.
    """
    time = clock()
    source = Powercap(time, powercap(tmp_path))
    energy = tmp_path / "intel-rapl:1" / "energy_uj"
    energy.write_text("262143328000")
    readings = list(source.read())
    energy.write_text("4000150")
    time.advance(timedelta(seconds=1))
    readings += source.read()

    meter = validate(
        PowerSeries(readings=readings, counter_ranges_uj=source.counter_ranges_uj), Rules()
    )

    assert meter.total_uj == 4_000_150 + 850


@pytest.mark.parametrize("damage", ["none", "garbled", "gone", "forbidden"])
def test_powercap_that_cannot_be_read_is_an_error(
    tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    No zone, no number, no file, no right: a sentence, not a zero.
    """
    if damage == "none":
        with pytest.raises(PowerSourceError, match="has no RAPL zone"):
            Powercap(clock(), tmp_path / "nowhere")
        return
    source = Powercap(clock(), powercap(tmp_path))
    energy = tmp_path / "intel-rapl:0" / "energy_uj"
    if damage == "garbled":
        energy.write_text("lots")
    elif damage == "gone":
        energy.unlink()
    else:
        # Root, who may run the tests, may read everything: the refusal has to be played.
        monkeypatch.setattr(Path, "read_text", _forbid)

    with pytest.raises(PowerSourceError, match="energy_uj"):
        source.read()


def _forbid(path: Path, **_: object) -> str:
    raise PermissionError(13, "Permission denied", str(path))


def test_dcgm_counters_are_preferred_and_power_is_understood() -> None:
    """
    Millijoules where all have them, else watts; NaN stays no number; a pod's copy counts once.
    """
    counters = PrometheusText(clock(), lambda: DCGM_TEXT + DCGM_COUNTERS).read()
    powers = PrometheusText(clock(), lambda: DCGM_TEXT).read()

    assert [(one.device, one.value, one.at_us) for one in counters] == [
        ("GPU-a", 5_000_123_000, START_US),
        ("GPU-b", 7_000, START_US - 500_000),
    ]
    assert [(one.device, one.value, one.quantity) for one in powers] == [
        ("GPU-a", 71_532_000, Quantity.POWER),
        ("GPU-b", None, Quantity.POWER),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "No metric has all devices"),
        ("up 1\n", "No metric has all devices"),
        ("DCGM_FI_DEV_POWER_USAGE 1\n", "a sample without a device"),
        ('DCGM_FI_DEV_POWER_USAGE{gpu="0"} 1\nDCGM_FI_DEV_POWER_USAGE{gpu="0"} 2\n', "two values"),
        ("{{{\n", "is no Prometheus text"),
        ("DCGM_FI_DEV_POWER_USAGE{gpu=\n", "is no Prometheus text"),
    ],
)
def test_text_that_is_not_understood_is_an_error(text: str, message: str) -> None:
    """
    An exporter without power, or with two for one GPU, is told.
    """
    with pytest.raises(PowerSourceError, match=message):
        PrometheusText(clock(), lambda: text).read()


def test_exporter_that_is_away_is_an_error() -> None:
    """
    Nobody listens there.
    """
    with pytest.raises(PowerSourceError, match="does not answer"):
        fetch_text("http://127.0.0.1:1/metrics")


def test_nvml_counters_or_power_where_one_has_none() -> None:
    """
    Millijoules when every GPU has a counter, milliwatts else.
    """
    counters = Nvml(clock(), FakeNvml()).read()
    powers = Nvml(clock(), FakeNvml(old=1)).read()

    assert [(one.device, one.value) for one in counters] == [
        ("GPU-0", 5_000_123_000),
        ("GPU-1", 5_000_123_000),
    ]
    assert {(one.quantity, one.value) for one in powers} == {(Quantity.POWER, 71_532_000)}


@pytest.mark.parametrize("old", [None, 1])
def test_nvml_without_driver_gpu_or_answer_is_an_error(old: int | None) -> None:
    """
    NVML's own words are passed on.
    """
    fake = FakeNvml(old=old)
    source = Nvml(clock(), fake)
    fake.is_broken = True

    with pytest.raises(PowerSourceError, match="GPU is lost"):
        source.read()
    with pytest.raises(PowerSourceError, match="Driver Not Loaded"):
        Nvml(clock(), fake)
    with pytest.raises(PowerSourceError, match="no GPU"):
        Nvml(clock(), FakeNvml(gpus=0))


def test_model_is_cpu_time_times_a_cores_share_and_says_what_it_is() -> None:
    """
    Two seconds of one of four cores of 100 W are 50 J, of a device named a model.
    """
    (reading,) = ModelledPower(clock(), lambda: 2.0, name="demo", tdp_w=100, cores=4).read()

    assert (reading.device, reading.value) == ("model:demo", 50_000_000)


def test_cpu_time_of_a_process_that_is_not_there_is_an_error() -> None:
    """
    A process that is gone has no power; this one has some.
    """
    assert cpu_time_of(os.getpid())() > 0
    with pytest.raises(PowerSourceError, match="no process"):
        cpu_time_of(2**30)


def test_recorded_model_is_attributed_and_labelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    ``factory record`` writes what ``factory attribute`` reads; a model is called one.
    """
    monkeypatch.setattr(cli_factory, "wait", lambda _: None)
    out = tmp_path / "power.csv"
    words = ["factory", "record", "--source", "model", "--out", str(out), "--readings", "3"]
    words += ["--pid", str(os.getpid()), "--tdp-w", "100"]

    recorded = CliRunner().invoke(app, words)

    assert recorded.exit_code == 0, recorded.output
    log = tmp_path / "spans.csv"
    log.write_text("call,start,end\na,1,2\n")
    words_after = ["factory", "attribute", "--power", str(out), "--spans", str(log)]
    result = CliRunner().invoke(app, words_after)
    assert result.exit_code == 0, result.output
    assert "is a MODEL of its power, no measurement" in " ".join(result.stderr.split())
    again = CliRunner().invoke(app, words)
    assert again.exit_code == 2
    assert "cannot be written: File exists" in again.stderr


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--source", "dcgm"], "dcgm needs --url."),
        (["--source", "model", "--pid", "1"], "model needs --pid and --tdp-w."),
    ],
)
def test_source_without_its_options_is_told(tmp_path: Path, words: list[str], text: str) -> None:
    """
    One sentence, and no file is begun.
    """
    out = tmp_path / "power.csv"

    result = CliRunner().invoke(app, ["factory", "record", "--out", str(out), *words])

    assert result.exit_code == 2
    assert text in result.stderr
    assert not out.exists()


VLLM = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 2.0
# HELP vllm:prefix_cache_hits_total Prefix cache hits, in terms of number of cached tokens.
# TYPE vllm:prefix_cache_hits_total counter
vllm:prefix_cache_hits_total{engine="0",model_name="m"} 64.0
# HELP vllm:prompt_tokens_total Number of prefill tokens processed.
# TYPE vllm:prompt_tokens_total counter
vllm:prompt_tokens_total{engine="0",model_name="m"} 1000.0
vllm:prompt_tokens_total{engine="1",model_name="m"} 500.0
# HELP vllm:prompt_tokens_created Number of prefill tokens processed.
# TYPE vllm:prompt_tokens_created gauge
vllm:prompt_tokens_created{engine="0",model_name="m"} 1.7e+09
# HELP vllm:generation_tokens_total Number of generation tokens processed.
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{engine="0",model_name="m"} 300.0
# HELP vllm:request_prefill_time_seconds Histogram of time spent in PREFILL phase for request.
# TYPE vllm:request_prefill_time_seconds histogram
vllm:request_prefill_time_seconds_bucket{engine="0",le="0.3",model_name="m"} 4.0
vllm:request_prefill_time_seconds_bucket{engine="0",le="+Inf",model_name="m"} 5.0
vllm:request_prefill_time_seconds_count{engine="0",model_name="m"} 5.0
vllm:request_prefill_time_seconds_sum{engine="0",model_name="m"} 1.25
# HELP vllm:request_decode_time_seconds Histogram of time spent in DECODE phase for request.
# TYPE vllm:request_decode_time_seconds histogram
vllm:request_decode_time_seconds_bucket{engine="0",le="+Inf",model_name="m"} 5.0
vllm:request_decode_time_seconds_count{engine="0",model_name="m"} 5.0
vllm:request_decode_time_seconds_sum{engine="0",model_name="m"} 7.5
"""


def test_counters_of_vllm_are_read_and_replicas_added_up() -> None:
    """
    Written as its documentation shows it: no vLLM was run here.
    """
    assert VllmText(lambda: VLLM).read() == {
        "cached_tokens": 64_000_000,
        "prompt_tokens": 1_500_000_000,
        "generation_tokens": 300_000_000,
        "prefill_seconds": 1_250_000,
        "decode_seconds": 7_500_000,
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "have no decode_seconds"),
        (VLLM.replace("decode_time", "other_time"), "have no decode_seconds"),
        (VLLM.replace("} 300.0", "} NaN"), "is no count"),
        (VLLM.replace("} 300.0", "} -1"), "is no count"),
        ("vllm:prompt_tokens_total{", "is no Prometheus text"),
    ],
)
def test_metrics_that_are_not_vllms_are_an_error(text: str, message: str) -> None:
    """
    Never half of the counters: they are divided by each other.
    """
    with pytest.raises(PowerSourceError, match=message):
        VllmText(lambda: text).read()

"""Reading weights: what is loaded, and what is refused."""

import os
from pathlib import Path

import numpy
import pytest
import torch
from safetensors.torch import save_file
from torchvision import models

from testbed.api import ImageTask, Invalid
from testbed.model.image import ImageVictim
from testbed.model.resnet20 import ResNet20
from testbed.model.small_cnn import SmallCNN
from testbed.model.torchvision import TorchvisionVictim

COLOUR = ImageTask("images", tuple("abcdefghij"), (3, 32, 32))
IMAGES = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
SHUFFLENET = "shufflenet_v2_x0_5"


@pytest.fixture(autouse=True)
def own_randomness():
    """Initial weights come from the global generator, which here is nobody else's."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def real(name: str) -> Path:
    """A file of the real data, which must be there."""
    if "TESTBED_DATA" not in os.environ:
        pytest.fail("set TESTBED_DATA to the folder that holds the real data sets")
    path = Path(os.environ["TESTBED_DATA"]) / name
    if not path.exists():
        pytest.fail(f"TESTBED_DATA is set, but it holds no {name}")
    return path


def saved(tmp_path: Path, tensors: dict[str, torch.Tensor], **metadata: str) -> str:
    """A safetensors file of these tensors."""
    path = tmp_path / "model.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata)
    return str(path)


@pytest.mark.real_data
def test_published_resnet20_reaches_its_accuracy():
    """91.6 % on the real subset: 932 of 1,017 with these weights; a wrong shortcut or normalisation loses many points."""
    weights = str(real("models/resnet_cifar10/resnet20.safetensors"))
    test = numpy.load(real("cifar10_subset/test.npz"))
    victim = ImageVictim(COLOUR, ResNet20, weights=weights, **IMAGENET).eval()
    images, labels = torch.from_numpy(test["images"]).permute(0, 3, 1, 2), torch.from_numpy(test["labels"])
    with torch.inference_mode():
        answers = torch.cat([victim.answers(part) for part in images.split(128)])
    assert victim.correct(answers, labels).sum().item() == pytest.approx(
        932, abs=1
    )  # a tie may fall otherwise on another processor


@pytest.mark.parametrize("whole", [True, False])
def test_a_saved_victim_answers_the_same_when_read(tmp_path, whole):
    victim = ImageVictim(COLOUR, SmallCNN, mean=(0.1, 0.2, 0.3), std=(0.3,)).eval()
    path = saved(tmp_path, (victim if whole else victim.net).state_dict(), **victim.metadata())
    read = ImageVictim(COLOUR, SmallCNN, weights=path).eval()
    assert torch.equal(read(IMAGES), victim(IMAGES))
    assert read.metadata() == victim.metadata()
    assert ImageVictim(COLOUR, SmallCNN, weights=path, std=(0.4,)).centre == (0.1, 0.2, 0.3)
    assert ImageVictim(COLOUR, SmallCNN, weights=path, std=(0.4,)).spread == (0.4,)


def test_misfits_are_named_up_to_three_of_each(tmp_path):
    tensors = SmallCNN(3, 7, 32).state_dict() | {f"extra{n}": torch.zeros(1) for n in range(5)}
    for name in [name for name in tensors if name.startswith("stage1")]:
        del tensors[name]
    with pytest.raises(Invalid) as refusal:
        ImageVictim(COLOUR, SmallCNN, weights=saved(tmp_path, tensors))
    shown = str(refusal.value)
    assert "5 missing: stage1.0.weight, stage1.1.weight, stage1.1.bias, ..." in shown  # the batch counter may be missing
    assert "5 unknown: extra0, extra1, extra2, ..." in shown
    assert "2 of another shape: linear.weight [7, 64] for [10, 64], linear.bias [7] for [10]" in shown
    assert "\n" not in shown


def test_allowed_misfits_stay_fresh_and_the_rest_is_read(tmp_path):
    other = SmallCNN(3, 7, 32)
    path = saved(tmp_path, other.state_dict() | {"extra": torch.zeros(1)})
    with pytest.raises(Invalid, match="1 unknown: extra"):
        ImageVictim(COLOUR, SmallCNN, weights=path, weights_allow=("linear.",))
    victim = ImageVictim(COLOUR, SmallCNN, weights=path, weights_allow=["linear.", "extra"])
    assert torch.equal(victim.net.stage4[0].weight, other.stage4[0].weight)
    assert victim.net.linear.weight.shape == (10, 64)
    assert victim.net.linear.weight.std() > 0


def test_metadata_that_are_no_numbers_are_refused(tmp_path):
    path = saved(tmp_path, SmallCNN(3, 10, 32).state_dict(), mean="[0.5, 'x'")
    with pytest.raises(Invalid, match=r"weights=.*own mean is not a list of numbers"):
        ImageVictim(COLOUR, SmallCNN, weights=path)


def test_other_files_are_refused(tmp_path):
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{")
    refusals = {
        "pretrained": "only torchvision's own",
        "https://example.org/model.safetensors": "nothing is downloaded",
        "model.pth": "only .safetensors files are read",
        "absent.safetensors": "there is no such file",
        str(tmp_path): "only .safetensors files are read",
        str(torn): "the file cannot be read",
    }
    for source, limit in refusals.items():
        with pytest.raises(Invalid, match=limit) as refusal:
            ImageVictim(COLOUR, SmallCNN, weights=source)
        assert refusal.value.parameter == "weights"
        assert "\n" not in str(refusal.value)


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """Where torch's hub would have put torchvision's weights; nothing else can be reached."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder / Path(models.get_model_weights(SHUFFLENET).DEFAULT.url).name


def test_pretrained_keeps_the_head_only_for_as_many_classes(hub):
    stored = models.get_model(SHUFFLENET, weights=None)
    torch.save(stored.state_dict(), hub)
    thousand = ImageTask("images", tuple(map(str, range(1000))), (3, 32, 32))
    whole, cut = (TorchvisionVictim(task, SHUFFLENET, weights="pretrained") for task in (thousand, COLOUR))
    assert torch.equal(whole.head.weight, stored.fc.weight)
    assert torch.equal(cut.net.conv1[0].weight, stored.conv1[0].weight)
    assert cut.head.weight.shape == (10, 1024)
    assert (cut.centre, cut.spread) == (IMAGENET["mean"], IMAGENET["std"])
    assert TorchvisionVictim(COLOUR, SHUFFLENET, weights="pretrained", mean=(0.5,)).centre == (0.5,)


class RunsCode:
    """What a pickled checkpoint can do to its reader; harmless here: it leaves an empty file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


def test_pretrained_refuses_what_it_cannot_fetch_or_trust(hub):
    with pytest.raises(Invalid, match=f"weights=pretrained.*{SHUFFLENET} could not be used") as refusal:
        TorchvisionVictim(COLOUR, SHUFFLENET, weights="pretrained")
    assert "\n" not in str(refusal.value)
    trace = hub.parent / "code_was_run"
    torch.save({"fc.weight": RunsCode(trace)}, hub)
    with pytest.raises(Invalid, match="could not be used"):
        TorchvisionVictim(COLOUR, SHUFFLENET, weights="pretrained")
    assert not trace.exists()


def test_torchvision_reads_files_too(tmp_path):
    stored = models.get_model(SHUFFLENET, weights=None, num_classes=10)
    victim = TorchvisionVictim(COLOUR, SHUFFLENET, weights=saved(tmp_path, stored.state_dict()))
    assert torch.equal(victim.head.weight, stored.fc.weight)
